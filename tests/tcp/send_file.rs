//! `send_file`: the order among other sends, fairness to other connections, the limits, errors of
//! files, and how many descriptors are open.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process;
use std::sync::{Arc, mpsc};

use crate::support::net::{
    self, End, Random, assert_queued, assert_written, pattern, reason, scripted, scripted_with,
};
use crate::support::{LIMIT, MIB, with_watchdog};
use reveille::net::{ConnectionLimits, SendError};

/// A file that is removed on drop.
struct TempFile(PathBuf);

impl TempFile {
    fn new(name: &str, bytes: &[u8]) -> TempFile {
        let path = std::env::temp_dir().join(format!("reveille-{}-{name}", process::id()));
        fs::write(&path, bytes).unwrap();
        TempFile(path)
    }

    fn open(&self) -> File {
        File::open(&self.0).unwrap()
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn files_and_other_sends_keep_their_order() {
    with_watchdog(LIMIT, || {
        let bytes = pattern(8 * MIB);
        let temporary = TempFile::new("order", &bytes);
        let (file, expected) = (temporary.open(), bytes.clone());
        let (host, journal) = scripted(move |script| {
            let (bytes, file) = (bytes.clone(), file.try_clone().unwrap());
            script.on_open(move |conn| {
                let mut random = Random::new(11);
                let mut at = 0;
                while at < bytes.len() {
                    let max = [10, 5_000, 500_000][random.below(3)];
                    let len = (1 + random.below(max)).min(bytes.len() - at);
                    match random.below(2) {
                        0 => conn.send(&bytes[at..at + len])?,
                        _ => conn.send_file(file.try_clone()?, at as u64, len as u64)?,
                    };
                    at += len;
                }
                assert!(conn.unsent() > 0, "the kernel accepted all bytes at once");
                conn.shutdown();
                io::Result::Ok(())
            })
        });
        let mut client = net::connect_with_small_packets(host.address());
        assert!(net::read_to_end(&mut client) == expected, "the received bytes differ");
        drop(client);
        assert_eq!(journal.end_of(0), End::Finished);
    });
}

#[test]
fn a_file_counts_as_unsent_but_not_towards_max_unsent() {
    with_watchdog(LIMIT, || {
        let bytes = pattern(16 * MIB);
        let temporary = TempFile::new("limit", &bytes);
        let file = temporary.open();
        let (host, _journal) = scripted_with(
            |builder| builder.limits(ConnectionLimits::new().max_unsent(1000)),
            move |script| {
                let file = file.try_clone().unwrap();
                script.on_open(move |conn| {
                    assert_written(conn, conn.send_file(file.try_clone()?, 0, 0));
                    assert_queued(conn, conn.send_file(file.try_clone()?, 0, 16 << 20));
                    // The first attempt sends at most 1 MiB, as every turn does.
                    assert!(conn.unsent() >= 15 * MIB, "{} unsent bytes", conn.unsent());
                    let before = conn.unsent();
                    assert_queued(conn, conn.send([b'!'; 1000]));
                    assert_eq!(conn.unsent(), before + 1000);
                    assert_eq!(conn.send([b'!'; 1]), Err(SendError::Full));
                    conn.shutdown();
                    assert_eq!(reason(conn.send_file(file.try_clone()?, 0, 1)), Err(SendError::ShutDown));
                    io::Result::Ok(())
                })
            },
        );
        let received = net::read_to_end(&mut host.connect());
        assert!(received == [&bytes[..], &[b'!'; 1000]].concat(), "the received bytes differ");
        assert_eq!(host.handle().counters().panics, 0);
    });
}

#[test]
fn a_large_file_does_not_delay_other_connections() {
    const SIZE: usize = 64 * MIB;
    with_watchdog(LIMIT, || {
        let temporary = TempFile::new("others", &[]);
        OpenOptions::new().write(true).open(&temporary.0).unwrap().set_len(SIZE as u64).unwrap();
        let file = temporary.open();
        let (host, _journal) = scripted(move |script| {
            let file = file.try_clone().unwrap();
            script.on_message(move |conn, input| {
                if input.readable() == b"file" {
                    input.clear();
                    conn.send_file(file.try_clone().unwrap(), 0, SIZE as u64)?;
                } else {
                    conn.send(input.take_all())?;
                }
                Ok(())
            })
        });
        let mut client = host.connect();
        let mut other = host.connect();
        let turns = host.request(|event_loop, _| event_loop.iteration());
        client.write_all(b"file").unwrap();
        net::assert_echoes(&mut other);
        assert!(net::read_exact(&mut client, SIZE).iter().all(|byte| *byte == 0));
        net::assert_echoes(&mut other);
        let turns = host.request(|event_loop, _| event_loop.iteration()) - turns;
        assert!(turns >= (SIZE / MIB) as u64, "{SIZE} bytes in {turns} turns");
    });
}

#[test]
fn a_file_shorter_than_the_range_closes_with_an_error() {
    with_watchdog(LIMIT, || {
        let temporary = TempFile::new("short", b"not so long");
        let file = temporary.open();
        let (sender, unsent_at_close) = mpsc::channel();
        let (host, journal) = scripted(move |script| {
            let (file, sender) = (file.try_clone().unwrap(), sender.clone());
            script
                .on_message(move |conn, input| {
                    input.clear();
                    conn.send("begin: ")?;
                    conn.send_file(file.try_clone()?, 4, 100).map_err(io::Error::from)
                })
                .on_close(move |conn, _| sender.send(conn.unsent()).unwrap())
        });
        let mut client = host.connect();
        // If `on_open` sent the file, the reset could arrive before connect(2) has returned.
        client.write_all(b"go").unwrap();
        match journal.end_of(0) {
            End::Error(io::ErrorKind::UnexpectedEof, message) => {
                assert!(message.contains("93 bytes"), "{message}")
            }
            end => panic!("{end:?}"),
        }
        assert_eq!(
            unsent_at_close.recv_timeout(net::LIMIT),
            Ok(0),
            "a rejected file must not count as unsent"
        );
        // The existing bytes of the file may have arrived. The reset shows that they are not all.
        assert!(b"begin: so long".starts_with(&net::read_until_reset(&mut client)));
    });
}

#[test]
fn a_pipe_as_a_file_closes_with_the_kernels_error() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted(move |script| {
            script.on_message(move |conn, input| {
                input.clear();
                let (pipe, _) = io::pipe()?;
                let pipe: OwnedFd = pipe.into();
                let sent = conn.send_file(pipe, 0, 1);
                assert_eq!(reason(sent), Err(SendError::Closed));
                io::Result::Ok(())
            })
        });
        let mut client = host.connect();
        client.write_all(b"go").unwrap();
        assert_eq!(net::read_until_reset(&mut client), b"");
        let end = journal.end_of(0);
        assert!(matches!(end, End::Error(_, _)), "{end:?}");
        assert_eq!(host.handle().counters().panics, 0);
    });
}

#[test]
fn a_reset_by_the_peer_closes_the_queued_file() {
    with_watchdog(LIMIT, || {
        let temporary = TempFile::new("reset", &pattern(32 * MIB));
        let file = temporary.open();
        let (host, journal) = scripted(move |script| {
            let file = file.try_clone().unwrap();
            script.on_open(move |conn| Ok(conn.send_file(file.try_clone().unwrap(), 0, 32 << 20)?))
        });
        let mut client = host.connect();
        net::read_exact(&mut client, 1000);
        net::reset(client);
        let end = journal.end_of(0);
        assert!(
            matches!(end, End::Error(io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe, _)),
            "{end:?}"
        );
        drop(host);
        let links =
            fs::read_dir("/proc/self/fd").unwrap().filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
        assert_eq!(links.filter(|link| *link == temporary.0).count(), 0, "the file is still open");
    });
}

/// The number of open descriptors of the file in this process.
fn open_descriptors(file: &TempFile) -> usize {
    let path = file.0.canonicalize().unwrap();
    let links = fs::read_dir("/proc/self/fd").expect("procfs");
    links
        .filter(|link| link.as_ref().is_ok_and(|link| fs::read_link(link.path()).is_ok_and(|to| to == path)))
        .count()
}

#[test]
fn queued_small_files_hold_no_descriptors_and_arrive_in_order() {
    with_watchdog(LIMIT, || {
        const SMALL: usize = 10_000;
        const FILES: usize = 2_000;
        let bytes = pattern(SMALL);
        let temporary = Arc::new(TempFile::new("small", &bytes));
        let serving = Arc::clone(&temporary);
        let (sender, reports) = mpsc::channel();
        let (host, _) = scripted_with(
            |builder| builder.limits(ConnectionLimits::new().max_unsent(64 * MIB).water_marks(64 * MIB, 0)),
            move |script| {
                let (file, sender) = (Arc::clone(&serving), sender.clone());
                script.on_open(move |conn| {
                    for number in 0..FILES {
                        conn.send(format!("{number:04}"))?;
                        conn.send_file(file.open(), 0, SMALL as u64)?;
                    }
                    assert!(conn.unsent() > SMALL * FILES / 2, "the kernel accepted most of the bytes");
                    sender.send(open_descriptors(&file)).unwrap();
                    conn.shutdown();
                    io::Result::Ok(())
                })
            },
        );
        let mut client = host.connect();
        assert_eq!(reports.recv_timeout(net::LIMIT), Ok(0));
        for number in 0..FILES {
            assert_eq!(net::read_exact(&mut client, 4), format!("{number:04}").as_bytes());
            assert!(net::read_exact(&mut client, SMALL) == bytes);
        }
        assert_eq!(net::read_to_end(&mut client), b"");
    });
}

#[test]
fn a_queued_file_shorter_than_the_range_closes_with_an_error() {
    with_watchdog(LIMIT, || {
        let temporary = TempFile::new("queued-short", b"short");
        let file = temporary.open();
        let (host, journal) = scripted(move |script| {
            let file = file.try_clone().unwrap();
            // Not in `on_open`: a reset could reach the client within its connect(2).
            script.on_message(move |conn, input| {
                input.clear();
                assert_queued(conn, conn.send(vec![0; 8 * MIB]));
                let unsent = conn.unsent();
                assert_eq!(reason(conn.send_file(file.try_clone()?, 0, 6)), Err(SendError::Closed));
                assert_eq!(conn.unsent(), unsent);
                io::Result::Ok(())
            })
        });
        let mut client = host.connect();
        client.write_all(b"x").unwrap();
        assert!(matches!(journal.end_of(0), End::Error(io::ErrorKind::UnexpectedEof, _)));
        assert!(net::read_until_reset(&mut client).len() < 8 * MIB);
    });
}

#[test]
fn at_most_64_large_files_may_be_queued() {
    with_watchdog(LIMIT, || {
        const SIZE: usize = 200_000;
        let bytes = pattern(SIZE);
        let temporary = TempFile::new("many", &bytes);
        let file = temporary.open();
        let (sender, reports) = mpsc::channel();
        let (host, _) = scripted(move |script| {
            let (file, sender) = (file.try_clone().unwrap(), sender.clone());
            script.on_open(move |conn| {
                assert_queued(conn, conn.send(vec![0; 8 * MIB]));
                let mut files = 0;
                while files < 100 && conn.send_file(file.try_clone()?, 0, SIZE as u64).is_ok() {
                    files += 1;
                }
                assert_eq!(reason(conn.send_file(file.try_clone()?, 0, SIZE as u64)), Err(SendError::Full));
                sender.send(files).unwrap();
                conn.send("the end")?;
                conn.shutdown();
                io::Result::Ok(())
            })
        });
        let mut client = host.connect();
        assert_eq!(reports.recv_timeout(net::LIMIT), Ok(64));
        net::read_exact(&mut client, 8 * MIB);
        for _ in 0..64 {
            assert!(net::read_exact(&mut client, SIZE) == bytes);
        }
        assert_eq!(net::read_to_end(&mut client), b"the end");
    });
}
