//! Files among other sends: in order, at the pace of the peer, and without their weight.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process;
use std::sync::{Arc, mpsc};

use crate::support::net::{self, End, Random, pattern, scripted, scripted_with};
use crate::support::{LIMIT, MIB, with_watchdog};
use reveille::net::{ConnectionLimits, SendError, SendStatus};

/// A file that goes with this value.
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
                    let most = [10, 5_000, 500_000][random.below(3)];
                    let len = (1 + random.below(most)).min(bytes.len() - at);
                    match random.below(2) {
                        0 => conn.send(&bytes[at..at + len])?,
                        _ => conn.send_file(file.try_clone()?, at as u64, len as u64)?,
                    };
                    at += len;
                }
                assert!(conn.unsent() > 0, "more than a kernel takes at once");
                conn.shutdown();
                io::Result::Ok(())
            })
        });
        let mut client = net::connect_with_small_packets(host.address());
        assert!(net::read_to_end(&mut client) == expected, "other bytes came");
        drop(client);
        assert_eq!(journal.end_of(0), End::Finished);
    });
}

#[test]
fn a_file_counts_as_unsent_and_not_against_the_limit() {
    with_watchdog(LIMIT, || {
        let bytes = pattern(16 * MIB);
        let temporary = TempFile::new("limit", &bytes);
        let file = temporary.open();
        let (host, _journal) = scripted_with(
            |builder| builder.limits(ConnectionLimits::new().max_unsent(1000)),
            move |script| {
                let file = file.try_clone().unwrap();
                script.on_open(move |conn| {
                    assert_eq!(conn.send_file(file.try_clone()?, 0, 0), Ok(SendStatus::Written));
                    assert_eq!(conn.send_file(file.try_clone()?, 0, 16 << 20), Ok(SendStatus::Queued));
                    // What one turn sends at most, and a first try is no other.
                    assert!(conn.unsent() >= 15 * MIB, "{}", conn.unsent());
                    let before = conn.unsent();
                    assert_eq!(conn.send([b'!'; 1000]), Ok(SendStatus::Queued));
                    assert_eq!(conn.unsent(), before + 1000);
                    assert_eq!(conn.send([b'!'; 1]), Err(SendError::Full));
                    conn.shutdown();
                    assert_eq!(conn.send_file(file.try_clone()?, 0, 1), Err(SendError::Closed));
                    io::Result::Ok(())
                })
            },
        );
        let received = net::read_to_end(&mut host.connect());
        assert!(received == [&bytes[..], &[b'!'; 1000]].concat(), "other bytes came");
        assert_eq!(host.handle().counters().panics, 0);
    });
}

#[test]
fn a_file_does_not_keep_the_others_waiting() {
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
                    conn.send_file(file.try_clone().unwrap(), 0, SIZE as u64).map(drop)
                } else {
                    conn.send(input.take_all()).map(drop)
                }
                .map_err(io::Error::from)
            })
        });
        let mut client = host.connect();
        let mut other = host.connect();
        let turns = host.ask(|event_loop, _| event_loop.iteration());
        client.write_all(b"file").unwrap();
        net::assert_echoes(&mut other);
        assert!(net::read_exact(&mut client, SIZE).iter().all(|byte| *byte == 0));
        net::assert_echoes(&mut other);
        let turns = host.ask(|event_loop, _| event_loop.iteration()) - turns;
        assert!(turns >= (SIZE / MIB) as u64, "{SIZE} bytes in {turns} turns");
    });
}

#[test]
fn a_file_that_is_shorter_than_promised_closes_with_an_error() {
    with_watchdog(LIMIT, || {
        let temporary = TempFile::new("short", b"not so long");
        let file = temporary.open();
        let (tell, told) = mpsc::channel();
        let (host, journal) = scripted(move |script| {
            let (file, tell) = (file.try_clone().unwrap(), tell.clone());
            script
                .on_message(move |conn, input| {
                    input.clear();
                    conn.send("begin: ")?;
                    conn.send_file(file.try_clone()?, 4, 100).map(drop).map_err(io::Error::from)
                })
                .on_close(move |conn, _| tell.send(conn.unsent()).unwrap())
        });
        let mut client = host.connect();
        // Not from `on_open`: the reset could come before connect(2) has returned.
        client.write_all(b"go").unwrap();
        match journal.end_of(0) {
            End::Error(io::ErrorKind::UnexpectedEof, message) => {
                assert!(message.contains("93 bytes"), "{message}")
            }
            end => panic!("{end:?}"),
        }
        assert_eq!(told.recv_timeout(net::LIMIT), Ok(0), "what was refused is not owed");
        // What there is of it may have arrived, and the peer can tell that it is not all.
        assert!(b"begin: so long".starts_with(&net::read_until_reset(&mut client)));
    });
}

#[test]
fn what_is_no_file_closes_with_the_error_of_the_kernel() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted(move |script| {
            script.on_message(move |conn, input| {
                input.clear();
                let (pipe, _) = io::pipe()?;
                let pipe: OwnedFd = pipe.into();
                let sent = conn.send_file(pipe, 0, 1);
                assert_eq!(sent, Err(SendError::Closed));
                io::Result::Ok(())
            })
        });
        let mut client = host.connect();
        client.write_all(b"go").unwrap();
        assert_eq!(net::read_until_reset(&mut client), b"");
        let end = journal.end_of(0);
        assert!(matches!(end, End::Error(_, _)), "{end:?}");
        println!("{end:?}");
        assert_eq!(host.handle().counters().panics, 0);
    });
}

#[test]
fn a_file_on_its_way_to_a_peer_that_goes_is_given_up() {
    with_watchdog(LIMIT, || {
        let temporary = TempFile::new("given-up", &pattern(32 * MIB));
        let file = temporary.open();
        let (host, journal) = scripted(move |script| {
            let file = file.try_clone().unwrap();
            script.on_open(move |conn| conn.send_file(file.try_clone().unwrap(), 0, 32 << 20))
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

/// How many descriptors this process has of the file.
fn opened(file: &TempFile) -> usize {
    let path = file.0.canonicalize().unwrap();
    let links = fs::read_dir("/proc/self/fd").expect("procfs");
    links
        .filter(|link| link.as_ref().is_ok_and(|link| fs::read_link(link.path()).is_ok_and(|to| to == path)))
        .count()
}

#[test]
fn small_files_that_wait_keep_no_descriptors_and_arrive_in_order() {
    with_watchdog(LIMIT, || {
        const SMALL: usize = 10_000;
        const FILES: usize = 2_000;
        let bytes = pattern(SMALL);
        let temporary = Arc::new(TempFile::new("small", &bytes));
        let serving = Arc::clone(&temporary);
        let (opened_then, is_opened) = mpsc::channel();
        let (host, _) = scripted_with(
            |builder| builder.limits(ConnectionLimits::new().max_unsent(64 * MIB).water_marks(64 * MIB, 0)),
            move |script| {
                let (file, opened_then) = (Arc::clone(&serving), opened_then.clone());
                script.on_open(move |conn| {
                    for number in 0..FILES {
                        conn.send(format!("{number:04}"))?;
                        conn.send_file(file.open(), 0, SMALL as u64)?;
                    }
                    assert!(conn.unsent() > SMALL * FILES / 2, "the kernel takes it all");
                    opened_then.send(opened(&file)).unwrap();
                    conn.shutdown();
                    io::Result::Ok(())
                })
            },
        );
        let mut client = host.connect();
        assert_eq!(is_opened.recv_timeout(net::LIMIT), Ok(0));
        for number in 0..FILES {
            assert_eq!(net::read_exact(&mut client, 4), format!("{number:04}").as_bytes());
            assert!(net::read_exact(&mut client, SMALL) == bytes);
        }
        assert_eq!(net::read_to_end(&mut client), b"");
    });
}

#[test]
fn a_small_file_that_is_shorter_than_promised_closes_with_an_error_behind_others_as_well() {
    with_watchdog(LIMIT, || {
        let temporary = TempFile::new("short-behind", b"short");
        let file = temporary.open();
        let (host, journal) = scripted(move |script| {
            let file = file.try_clone().unwrap();
            script.on_open(move |conn| {
                assert_eq!(conn.send(vec![0; 8 * MIB]), Ok(SendStatus::Queued));
                let unsent = conn.unsent();
                assert_eq!(conn.send_file(file.try_clone()?, 0, 6), Err(SendError::Closed));
                assert_eq!(conn.unsent(), unsent);
                io::Result::Ok(())
            })
        });
        let mut client = host.connect();
        assert!(matches!(journal.end_of(0), End::Error(io::ErrorKind::UnexpectedEof, _)));
        assert!(net::read_until_reset(&mut client).len() < 8 * MIB);
    });
}

#[test]
fn so_many_large_files_may_wait_and_one_more_is_refused() {
    with_watchdog(LIMIT, || {
        const SIZE: usize = 200_000;
        let bytes = pattern(SIZE);
        let temporary = TempFile::new("many", &bytes);
        let file = temporary.open();
        let (tell, told) = mpsc::channel();
        let (host, _) = scripted(move |script| {
            let (file, tell) = (file.try_clone().unwrap(), tell.clone());
            script.on_open(move |conn| {
                assert_eq!(conn.send(vec![0; 8 * MIB]), Ok(SendStatus::Queued));
                let mut files = 0;
                while conn.send_file(file.try_clone()?, 0, SIZE as u64) == Ok(SendStatus::Queued) {
                    files += 1;
                }
                assert_eq!(conn.send_file(file.try_clone()?, 0, SIZE as u64), Err(SendError::Full));
                tell.send(files).unwrap();
                conn.send("the end")?;
                conn.shutdown();
                io::Result::Ok(())
            })
        });
        let mut client = host.connect();
        assert_eq!(told.recv_timeout(net::LIMIT), Ok(64));
        net::read_exact(&mut client, 8 * MIB);
        for _ in 0..64 {
            assert!(net::read_exact(&mut client, SIZE) == bytes);
        }
        assert_eq!(net::read_to_end(&mut client), b"the end");
    });
}
