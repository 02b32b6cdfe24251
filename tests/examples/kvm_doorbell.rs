//! The kvm_doorbell example as a program: its output with KVM, and its message without.

use crate::support::alone::skipped;
use crate::support::{LIMIT, example, with_watchdog};

#[test]
fn a_guest_rings_without_exits_and_receives_interrupts() {
    with_watchdog(LIMIT, || {
        let output = example::outcome_of("kvm_doorbell", &[]);
        let (output_text, errors) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && errors.is_empty(), "{}: {output_text}{errors}", output.status);
        if let Some(reason) = output_text.strip_prefix("not run: ") {
            assert_eq!(output_text.lines().count(), 1, "{output_text}");
            return skipped(reason.trim_end());
        }
        let expected = "\
doorbell: counted 1000 by the loop, 0 exits to user space
interrupt 1: the guest has seen it
interrupt 2: the guest has seen it
interrupt 3: the guest has seen it
end: rung 1000 times, interrupted 3 times, 1 exit to user space
";
        assert_eq!(output_text, expected);
    });
}
