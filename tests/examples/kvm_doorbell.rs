//! The example with a guest: what it prints where there is KVM, and that it says so where there is
//! none.

use crate::support::alone::skipped;
use crate::support::{LIMIT, example, with_watchdog};

#[test]
fn a_guest_rings_without_leaving_and_is_interrupted() {
    with_watchdog(LIMIT, || {
        let output = example::outcome_of("kvm_doorbell", &[]);
        let (said, errors) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && errors.is_empty(), "{}: {said}{errors}", output.status);
        if let Some(why) = said.strip_prefix("not run: ") {
            assert_eq!(said.lines().count(), 1, "{said}");
            return skipped(why.trim_end());
        }
        let expected = "\
doorbell: counted 1000 by the loop, 0 exits to user space
interrupt 1: the guest has seen it
interrupt 2: the guest has seen it
interrupt 3: the guest has seen it
end: rung 1000 times, interrupted 3 times, 1 exit to user space
";
        assert_eq!(said, expected);
    });
}
