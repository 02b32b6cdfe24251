//! The example `terminal`, driven through a pseudo-terminal.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use crate::support::example::program;
use crate::support::{LIMIT, with_watchdog};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

/// The master of a new pseudo-terminal, and its slave.
fn pty() -> (OwnedFd, OwnedFd) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let slave = rustix::fs::open(name.as_c_str(), flags, Mode::empty()).unwrap();
    (master, slave)
}

#[test]
fn a_terminal_shows_keys_and_sizes_and_is_restored() {
    with_watchdog(LIMIT, || {
        let (master, slave) = pty();
        let is_canonical = || tcgetattr(&slave).unwrap().local_modes.contains(LocalModes::ICANON);
        let stream = || Stdio::from(slave.try_clone().unwrap());
        let mut command = Command::new(program("terminal"));
        let mut process = command.stdin(stream()).stdout(stream()).spawn().unwrap();
        drop(command);
        let mut user = File::from(master.try_clone().unwrap());
        let mut screen = BufReader::new(File::from(master.try_clone().unwrap()));
        let mut line = || {
            let mut line = String::new();
            screen.read_line(&mut line).unwrap();
            line
        };
        assert_eq!(line(), "q ends\r\n");
        assert!(!is_canonical());
        // Each key is shown at once. In the former mode the second one would end the program.
        for (key, shown) in [(&b"a"[..], "a\r\n"), (b"\x03", "\\x03\r\n"), (b"\x1b", "\\x1b\r\n")] {
            user.write_all(key).unwrap();
            assert_eq!(line(), shown);
        }
        let size = Winsize { ws_row: 50, ws_col: 132, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&master, size).unwrap();
        // This is not the controlling terminal of the program, so the kernel does not signal it.
        kill_process(Pid::from_child(&process), Signal::WINCH).unwrap();
        assert_eq!(line(), "132x50\r\n");
        user.write_all(b"q").unwrap();
        assert!(process.wait().unwrap().success());
        assert!(is_canonical());
    });
}
