//! The udp_echo example and datagrams with a forged source: it replies neither to itself nor to
//! port 0.

use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

use crate::support::alone::skipped;
use crate::support::example::program;
use crate::support::net::LIMIT;
use crate::support::with_watchdog;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto};

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A raw socket. It receives a copy of every UDP datagram that arrives at this machine, with the
/// headers, and can send datagrams with any source port.
struct Raw(OwnedFd);

impl Raw {
    /// # Errors
    /// EPERM if this process has no permission for raw sockets.
    fn new() -> rustix::io::Result<Raw> {
        rustix::net::socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::UDP)).map(Raw)
    }

    /// Sends an empty datagram whose source is `port` of 127.0.0.1.
    fn send(&self, port: u16, to: SocketAddrV4) {
        // The UDP header: the ports, the length, and no checksum.
        let [port, to_port, length] = [port, to.port(), 8].map(u16::to_be_bytes);
        let header = [port, to_port, length, [0, 0]].concat();
        let to = SocketAddrV4::new(*to.ip(), 0);
        assert_eq!(rustix::net::sendto(&self.0, &header, SendFlags::empty(), &to), Ok(8));
    }

    /// Reads the datagrams received so far, and returns how many were sent from port `source` to
    /// port `destination`.
    fn take_count(&self, source: u16, destination: u16) -> usize {
        let mut count = 0;
        let mut bytes = [0; 2048];
        loop {
            match rustix::net::recv(&self.0, &mut bytes, RecvFlags::DONTWAIT) {
                Ok((length, _)) => {
                    let header = usize::from(bytes[0] & 0xf) * 4;
                    assert!(length >= header + 8, "a datagram of {length} bytes is too short");
                    let port = |at: usize| u16::from_be_bytes([bytes[header + at], bytes[header + at + 1]]);
                    count += usize::from((port(0), port(2)) == (source, destination));
                }
                Err(Errno::AGAIN) => return count,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

#[test]
fn datagrams_from_itself_or_port_0_get_no_reply() {
    with_watchdog(LIMIT, || {
        let raw = match Raw::new() {
            Ok(raw) => raw,
            Err(error) => return skipped(format!("no raw socket: {error}")),
        };
        for listen in ["127.0.0.1:0", "0.0.0.0:0"] {
            let mut command = Command::new(program("udp_echo"));
            let command = command
                .args(["--listen", listen])
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            let mut echo = Killed(command.spawn().unwrap());
            let mut output = BufReader::new(echo.0.stdout.take().unwrap());
            let mut line = String::new();
            output.read_line(&mut line).unwrap();
            let local: SocketAddr = line.trim().strip_prefix("receiving on ").unwrap().parse().unwrap();
            let to = SocketAddrV4::new([127, 0, 0, 1].into(), local.port());

            for _ in 0..10 {
                raw.send(to.port(), to);
                raw.send(0, to);
            }
            // When it replies to these, it has already handled the datagrams above.
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            for _ in 0..10 {
                client.send_to(b"who is there?", to).unwrap();
                assert_eq!(client.recv_from(&mut [0; 64]).unwrap(), (13, SocketAddr::V4(to)));
            }
            assert!(raw.take_count(to.port(), to.port()) <= 10, "it has replied to itself");
            client.set_nonblocking(true).unwrap();
            assert_eq!(client.recv(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);

            echo.0.kill().unwrap();
            let mut errors = String::new();
            echo.0.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
            assert_eq!(errors, "");
        }
    });
}
