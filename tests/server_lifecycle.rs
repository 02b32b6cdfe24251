//! How servers begin and end: addresses, counts, an orderly stop, a drop at any time and in any order.

mod support;

use std::cell::RefCell;
use std::fs;
use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use reveille::{
    Buffer, ConnectionHandle, ConnectionHandler, EventLoop, SendError, StopReport, TcpConnection, TcpServer,
};
use support::net::{self, End, Host, Journal, Script, Told, scripted, scripted_with};
use support::{LIMIT, OnDrop, with_loop, with_watchdog};

const LONG: Duration = Duration::from_secs(3600);

fn loops(n: usize) -> NonZeroUsize {
    n.try_into().expect("at least one")
}

/// A scripted server over several loops, on the loop of a host.
fn scripted_over(
    threads: usize,
    script: impl Fn(Script) -> Script + Send + Sync + 'static,
) -> (Host, Journal) {
    let journal = Journal::new();
    let written = journal.clone();
    let host = Host::new(move |event_loop| {
        TcpServer::bind(event_loop, "127.0.0.1:0")?
            .threads(loops(threads))?
            .serve(move |_| script(written.script()))
    });
    (host, journal)
}

/// Has the host's server stop, and answers where its report will come.
fn stop(host: &Host, within: Duration) -> mpsc::Receiver<StopReport> {
    let (report, reported) = mpsc::channel();
    host.ask(move |_, server| {
        server.take().expect("a server").stop(within, move |_, outcome| report.send(outcome).unwrap());
    });
    reported
}

/// The report, after which what was to be called is gone.
#[track_caller]
fn only_report(reported: &mpsc::Receiver<StopReport>) -> (u64, u64) {
    let report = reported.recv_timeout(net::LIMIT).expect("a report");
    assert_eq!(reported.recv_timeout(net::LIMIT), Err(mpsc::RecvTimeoutError::Disconnected));
    (report.drained, report.cut)
}

// --- Addresses ------------------------------------------------------------------------------------

#[test]
fn a_server_on_port_0_says_which_port_it_has() {
    with_loop(|event_loop| {
        let bind = |address| {
            TcpServer::bind(event_loop, address)
                .unwrap()
                .on_message(|_, _| ())
                .expect("an address that is free")
        };
        let server = bind("127.0.0.1:0");
        assert_ne!(server.local_addr().port(), 0);
        assert!(server.local_addr().ip().is_loopback());
        // It listens already, though its loop does not run.
        net::connect(server.local_addr());
    });
}

#[test]
fn an_address_in_use_is_an_error_that_names_it() {
    with_loop(|event_loop| {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error =
            TcpServer::bind(event_loop, address).unwrap().on_message(|_, _| ()).expect_err("it is taken");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&address.to_string()), "{error}");
        let over_threads = TcpServer::bind(event_loop, address).unwrap().threads(loops(2)).unwrap();
        let error = over_threads.on_message(|_, _| ()).expect_err("it is taken");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    });
}

#[test]
fn of_several_addresses_the_first_that_is_free_is_taken() {
    with_loop(|event_loop| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = listener.local_addr().unwrap();
        let addresses = [taken, SocketAddr::from(([127, 0, 0, 1], 0))];
        let server = TcpServer::bind(event_loop, &addresses[..]).unwrap().on_message(|_, _| ()).unwrap();
        assert_ne!(server.local_addr(), taken);
        drop(listener);
        let nowhere: &[SocketAddr] = &[];
        let error = TcpServer::bind(event_loop, nowhere).unwrap().on_message(|_, _| ()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        let error = TcpServer::bind(event_loop, "127.0.0.1").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    });
}

#[test]
fn a_port_is_free_again_when_its_server_is_dropped() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted(|script| script.on_open(|conn| conn.shutdown()));
        let address = host.address();
        for number in 0..3 {
            // This end has finished first, so the address lingers in TIME-WAIT.
            let mut client = net::connect(address);
            assert_eq!(net::read_to_end(&mut client), b"");
            drop(client);
            journal.end_of(number);
            let written = journal.clone();
            host.ask(move |event_loop, server| {
                *server = None;
                let refused = TcpStream::connect(address).expect_err("nobody listens");
                assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
                let next = TcpServer::bind(event_loop, address)
                    .unwrap()
                    .serve(move |_| written.script().on_open(|conn| conn.shutdown()));
                *server = Some(next.expect("the port is free"));
            });
        }
    });
}

/// The loop does not turn meanwhile, so nobody is accepted.
#[test]
fn as_many_connections_may_wait_as_the_backlog_says() {
    with_loop(|event_loop| {
        let listen = |backlog: Option<i32>| {
            let builder = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap();
            let builder = if let Some(backlog) = backlog { builder.backlog(backlog) } else { builder };
            builder.on_message(|_, _| ()).unwrap()
        };
        let short = listen(Some(2));
        // The kernel lets one more wait than it is told.
        let waiting: Vec<_> = (0..3).map(|_| net::connect(short.local_addr())).collect();
        let refused = TcpStream::connect_timeout(&short.local_addr(), Duration::from_millis(50));
        assert_eq!(refused.expect_err("no room").kind(), io::ErrorKind::TimedOut);
        drop(waiting);

        let most = fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
        let usual = listen(None);
        // More than the 128 that are usual elsewhere, unless this system does not allow it.
        let many = most.trim().parse::<usize>().unwrap().min(300);
        let waiting: Vec<_> = (0..many).map(|_| net::connect(usual.local_addr())).collect();
        drop(waiting);
    });
}

// --- Counts ---------------------------------------------------------------------------------------

#[test]
fn the_open_connections_are_counted_on_one_loop_and_on_several() {
    with_watchdog(LIMIT, || {
        for threads in [1, 3] {
            let (host, journal) = scripted_over(threads, |script| script);
            assert_eq!(host.open_connections(), 0);
            let mut clients: Vec<_> = (0..6).map(|_| host.connect()).collect();
            clients.iter_mut().for_each(net::assert_echoes);
            assert_eq!(host.open_connections(), 6);
            // One after the other, each in a way of its own.
            net::reset(clients.pop().unwrap());
            net::until(|| host.open_connections() == 5);
            clients[0].shutdown(Shutdown::Write).unwrap();
            net::until(|| host.open_connections() == 4);
            drop(clients);
            net::until(|| host.open_connections() == 0);
            drop(host);
            journal.assert_whole_lives(6);
        }
    });
}

#[test]
fn connections_on_their_way_to_a_loop_are_counted() {
    with_watchdog(LIMIT, || {
        let (release, held) = mpsc::channel::<()>();
        let held = Mutex::new(held);
        let (host, _journal) = scripted_over(2, move |script| {
            // Both loops wait in their first connection.
            let _ = held.lock().unwrap().recv_timeout(net::LIMIT);
            script
        });
        let mut clients: Vec<_> = (0..6).map(|_| host.connect()).collect();
        net::until(|| host.open_connections() == 6);
        drop(release);
        clients.iter_mut().for_each(net::assert_echoes);
        assert_eq!(host.open_connections(), 6);
    });
}

// --- Drop -----------------------------------------------------------------------------------------

#[test]
fn a_server_that_is_dropped_closes_its_connections() {
    with_watchdog(LIMIT, || {
        for threads in [1, 3] {
            let (host, journal) = scripted_over(threads, |script| script);
            let mut clients: Vec<_> = (0..6).map(|_| host.connect()).collect();
            clients.iter_mut().for_each(net::assert_echoes);
            host.ask(|_, server| *server = None);
            for (number, client) in clients.iter_mut().enumerate() {
                net::wait_for_end(client);
                assert_eq!(journal.end_of(number), End::Stopped);
            }
            // The loop itself goes on.
            host.ask(|_, _| ());
            drop(host);
            journal.assert_whole_lives(6);
        }
    });
}

#[test]
fn a_server_over_several_loops_has_told_all_when_its_drop_returns() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted_over(3, |script| script);
        let mut clients: Vec<_> = (0..6).map(|_| host.connect()).collect();
        clients.iter_mut().for_each(net::assert_echoes);
        let told = journal.clone();
        host.ask(move |_, server| {
            *server = None;
            for number in 0..6 {
                assert_eq!(told.of(number).last(), Some(&Told::Close(End::Stopped)));
            }
        });
    });
}

/// The callback is given by its name: in which of a connection's calls its server goes.
#[test]
fn a_server_may_be_dropped_in_a_callback_of_its_own_connection() {
    for place in ["factory", "on_open", "on_message", "on_drained", "on_peer_shutdown", "on_close"] {
        with_loop(|event_loop| {
            let journal = Journal::new();
            let kept = Rc::new(RefCell::new(None));
            let (writing, dropping) = (journal.clone(), Rc::clone(&kept));
            let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().serve(move |_| {
                let kept = Rc::clone(&dropping);
                let script = writing.script();
                if script.number() > 0 {
                    return script;
                }
                let drop_server = move || drop(kept.borrow_mut().take());
                if place == "factory" {
                    drop_server();
                    return script;
                }
                match place {
                    "on_open" => script.on_open(move |_| drop_server()),
                    "on_message" => script.on_message(move |_, _| drop_server()),
                    "on_drained" => {
                        script.on_open(|conn| conn.notify_drained()).on_drained(move |_| drop_server())
                    }
                    "on_peer_shutdown" => script.on_peer_shutdown(move |_| drop_server()),
                    _ => script.on_close(move |_, _| drop_server()),
                }
            });
            let address = server.as_ref().unwrap().local_addr();
            *kept.borrow_mut() = Some(server.unwrap());
            let mut client = net::connect(address);
            let mut other = net::connect(address);
            client.write_all(b"x").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            net::turn_until(event_loop, || kept.borrow().is_none());
            // What it causes is over after the turn in which it happened and the next.
            support::turn(event_loop);
            support::turn(event_loop);
            net::wait_for_end(&mut client);
            net::wait_for_end(&mut other);
            assert_eq!(event_loop.handle().counters().panics, 0, "dropped in {place}");
            journal.assert_whole_lives(journal.handlers());
        });
    }
}

#[test]
fn a_server_dropped_while_connections_are_on_their_way_loses_none_of_them() {
    with_watchdog(LIMIT, || {
        for _ in 0..20 {
            let (host, journal) = scripted_over(2, |script| script);
            let mut clients: Vec<_> = (0..10).map(|_| host.connect()).collect();
            host.ask(|_, server| *server = None);
            clients.iter_mut().for_each(net::wait_for_end);
            drop(host);
            // However many got there, each of them was told both.
            journal.assert_whole_lives(journal.handlers());
        }
    });
}

/// Everything that there is, dropped in every order.
#[test]
fn loop_server_handle_and_client_may_go_in_any_order() {
    with_watchdog(LIMIT, || {
        for threads in [1, 2] {
            for order in permutations(["loop", "server", "handle", "client"]) {
                let journal = Journal::new();
                let writing = journal.clone();
                let (give, given) = mpsc::channel::<ConnectionHandle>();
                let give = Mutex::new(give);
                let event_loop = EventLoop::new().unwrap();
                let server = TcpServer::bind(&event_loop, "127.0.0.1:0")
                    .unwrap()
                    .threads(loops(threads))
                    .unwrap()
                    .serve(move |conn| {
                        give.lock().unwrap().send(conn.handle()).unwrap();
                        writing.script()
                    });
                let server = server.unwrap();
                let client = net::connect(server.local_addr());
                let mut handle = None;
                net::turn_until(&event_loop, || {
                    handle = given.try_recv().ok();
                    handle.is_some()
                });
                journal.wait_for(0, |told| *told == Told::Open);
                let loop_handle = event_loop.handle();
                let mut things = (Some(event_loop), Some(server), handle, Some(client));
                for thing in order {
                    match thing {
                        "loop" => things.0 = None,
                        "server" => things.1 = None,
                        "handle" => {
                            let sent = things.2.take().unwrap().send("still there?");
                            let served_here = threads == 1;
                            let loop_gone = things.0.is_none();
                            if loop_gone && (served_here || things.1.is_none()) {
                                assert_eq!(sent, Err(SendError::Closed), "{order:?}");
                            }
                        }
                        _ => things.3 = None,
                    }
                }
                assert_eq!(loop_handle.counters().panics, 0, "{order:?}");
                journal.assert_whole_lives(1);
            }
        }
    });
}

fn permutations(things: [&'static str; 4]) -> Vec<[&'static str; 4]> {
    let mut all = Vec::new();
    for a in 0..4 {
        for b in (0..4).filter(|b| *b != a) {
            for c in (0..4).filter(|c| *c != a && *c != b) {
                all.push([things[a], things[b], things[c], things[6 - a - b - c]]);
            }
        }
    }
    assert_eq!(all.len(), 24);
    all
}

// --- Stop -----------------------------------------------------------------------------------------

/// A connection owes what it has accepted for sending, more than the kernel takes at once.
const OWED: usize = 6 << 20;

fn owing(bytes: &Arc<[u8]>, script: Script) -> Script {
    let bytes = Arc::clone(bytes);
    script.on_open(move |conn| conn.send(&bytes))
}

#[test]
fn a_stop_without_connections_is_over_at_once() {
    with_watchdog(LIMIT, || {
        for threads in [1, 3] {
            let (host, _) = scripted_over(threads, |script| script);
            assert_eq!(only_report(&stop(&host, LONG)), (0, 0));
            let refused = TcpStream::connect(host.address()).expect_err("nobody listens");
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        }
    });
}

#[test]
fn a_stop_sends_what_is_owed_to_a_slow_reader() {
    with_watchdog(LIMIT, || {
        let bytes: Arc<[u8]> = net::pattern(OWED).into();
        for threads in [1, 2] {
            let owed = Arc::clone(&bytes);
            let (host, journal) = scripted_over(threads, move |script| owing(&owed, script));
            let mut client = host.connect();
            journal.wait_for(0, |told| *told == Told::Open);
            let reported = stop(&host, LONG);
            // Nothing has been read so far.
            assert!(net::read_to_end(&mut client) == *bytes, "other bytes came");
            drop(client);
            assert_eq!(only_report(&reported), (1, 0));
            assert_eq!(journal.end_of(0), End::Finished);
            drop(host);
            journal.assert_whole_lives(1);
        }
    });
}

#[test]
fn a_stop_cuts_off_those_that_have_not_ended_in_time() {
    with_watchdog(LIMIT, || {
        for threads in [1, 3] {
            let owed: Arc<[u8]> = vec![0; OWED].into();
            let (host, journal) =
                scripted_over(
                    threads,
                    move |script| {
                        if script.number() % 2 == 0 { owing(&owed, script) } else { script }
                    },
                );
            let mut clients: Vec<_> = (0..6).map(|_| host.connect()).collect();
            (0..6).for_each(|number| _ = journal.wait_for(number, |told| *told == Told::Open));
            let reported = stop(&host, Duration::from_millis(30));
            assert_eq!(only_report(&reported), (0, 6));
            (0..6).for_each(|number| assert_eq!(journal.end_of(number), End::Stopped));
            clients.iter_mut().for_each(net::wait_for_end);
            drop(host);
            journal.assert_whole_lives(6);
        }
    });
}

/// The deadline comes when those that end by themselves have ended.
#[test]
fn a_stop_reports_how_many_ended_each_way() {
    with_watchdog(LIMIT, || {
        for threads in [1, 3] {
            let (host, journal) = scripted_over(threads, |script| script);
            let mut clients: Vec<_> = (0..6).map(|_| host.connect()).collect();
            clients.iter_mut().for_each(net::assert_echoes);
            let reported = stop(&host, Duration::from_millis(150));
            let staying = clients.split_off(4);
            for client in &mut clients {
                assert_eq!(net::read_to_end(client), b"");
            }
            drop(clients);
            let (drained, cut) = only_report(&reported);
            assert_eq!(drained + cut, 6);
            // Exactly two are cut, unless this machine has taken the whole delay for the others.
            assert!(cut >= 2, "{cut}");
            let ends: Vec<End> = (0..6).map(|number| journal.end_of(number)).collect();
            let stopped = ends.iter().filter(|end| **end == End::Stopped).count() as u64;
            let finished = ends.iter().filter(|end| **end == End::Finished).count() as u64;
            assert_eq!((finished, stopped), (drained, cut));
            drop(staying);
        }
    });
}

#[test]
fn a_stop_throws_away_what_comes_in_after_it() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted(|script| script);
        let mut client = host.connect();
        net::assert_echoes(&mut client);
        let before = journal.of(0);
        let reported = stop(&host, LONG);
        assert_eq!(net::read_to_end(&mut client), b"");
        client.write_all(&[0; 100_000]).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(only_report(&reported), (1, 0));
        let life = journal.life_of(0);
        assert_eq!(life[..life.len() - 1], before[..]);
        assert_eq!(life.last(), Some(&Told::Close(End::Finished)));
    });
}

/// Says a last word, once, unless it fails.
struct LastWord {
    fails: bool,
}

impl ConnectionHandler for LastWord {
    fn on_message(&mut self, conn: &TcpConnection<'_>, input: &mut Buffer) -> io::Result<()> {
        let message = input.take_all();
        self.fails |= message == b"fail";
        conn.send(message)?;
        Ok(())
    }

    fn on_stop(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        conn.send("goodbye")?;
        if self.fails { Err(io::Error::other("it fails")) } else { Ok(()) }
    }
}

#[test]
fn a_handler_hears_of_the_stop_and_has_the_last_word() {
    for threads in [1, 2] {
        with_watchdog(LIMIT, || {
            let host = Host::new(move |event_loop| {
                let server = TcpServer::bind(event_loop, "127.0.0.1:0")?;
                server.threads(loops(threads))?.serve(|_| LastWord { fails: false })
            });
            let mut clients: Vec<_> = (0..4).map(|_| host.connect()).collect();
            clients.iter_mut().for_each(net::assert_echoes);
            assert_eq!(net::exchange(&mut clients[3], b"fail"), b"fail");
            let reported = stop(&host, LONG);
            for client in &mut clients {
                assert_eq!(net::read_to_end(client), b"goodbye", "once, and then the end");
            }
            drop(clients);
            assert_eq!(only_report(&reported), (4, 0));
        });
    }
}

#[test]
fn a_stop_is_not_held_up_by_a_handler_that_has_paused() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted(|script| script.on_open(|conn| conn.pause_reading()));
        let mut client = host.connect();
        client.write_all(b"never read").unwrap();
        journal.wait_for(0, |told| *told == Told::Open);
        let reported = stop(&host, LONG);
        assert_eq!(net::read_to_end(&mut client), b"");
        drop(client);
        assert_eq!(only_report(&reported), (1, 0));
        assert_eq!(journal.of(0), [Told::Open, Told::Close(End::Finished)]);
    });
}

/// It writes all before it reads anything, so it would wait for ever for a server that does not read either.
#[test]
fn a_stop_frees_a_peer_that_is_held_back() {
    with_watchdog(LIMIT, || {
        let held_back = Arc::new(AtomicBool::new(false));
        let noted = Arc::clone(&held_back);
        let (host, journal) = scripted_with(
            |builder| builder.water_marks(OWED / 2, 0),
            move |script| {
                let noted = Arc::clone(&noted);
                script.terse().on_message(move |conn, input| {
                    conn.send(input.take_all())?;
                    noted.fetch_or(conn.unsent() > OWED / 2, SeqCst);
                    Ok(())
                })
            },
        );
        let mut client = host.connect();
        let mut writer = client.try_clone().unwrap();
        thread::scope(|scope| {
            let writing = scope.spawn(move || writer.write_all(&vec![0; 8 * OWED]));
            net::until(|| held_back.load(SeqCst));
            let reported = stop(&host, LONG);
            writing.join().unwrap().unwrap();
            assert!(net::read_to_end(&mut client).len() > OWED / 2);
            client.shutdown(Shutdown::Both).unwrap();
            assert_eq!(only_report(&reported), (1, 0));
            assert_eq!(journal.end_of(0), End::Finished);
        });
    });
}

#[test]
fn a_stop_refuses_connections_that_are_still_on_their_way() {
    with_watchdog(LIMIT, || {
        let (release, held) = mpsc::channel::<()>();
        let held = Mutex::new(held);
        let (host, journal) = scripted_over(2, move |script| {
            let _ = held.lock().unwrap().recv_timeout(net::LIMIT);
            script
        });
        let mut clients: Vec<_> = (0..6).map(|_| host.connect()).collect();
        net::until(|| host.open_connections() == 6);
        let reported = stop(&host, LONG);
        drop(release);
        for client in &mut clients {
            // The first on each loop is shut down, the others are closed where they arrive.
            net::wait_for_end(client);
        }
        drop(clients);
        assert_eq!(only_report(&reported), (6, 0));
        drop(host);
        assert!(journal.handlers() <= 2, "opened after the stop: {journal:?}");
        journal.assert_whole_lives(journal.handlers());
    });
}

#[test]
fn a_stop_whose_loop_goes_first_ends_with_the_loop() {
    with_watchdog(LIMIT, || {
        for threads in [1, 2] {
            let journal = Journal::new();
            let writing = journal.clone();
            let event_loop = EventLoop::new().unwrap();
            let server = TcpServer::bind(&event_loop, "127.0.0.1:0")
                .unwrap()
                .threads(loops(threads))
                .unwrap()
                .serve(move |_| writing.script())
                .unwrap();
            let client = net::connect(server.local_addr());
            net::turn_until(&event_loop, || journal.handlers() == 1);
            journal.wait_for(0, |told| *told == Told::Open);
            let dropped = Arc::new(Mutex::new(false));
            let noted = Arc::clone(&dropped);
            let token = OnDrop::new(move || *noted.lock().unwrap() = true);
            server.stop(LONG, move |_, _| {
                token.keep();
                unreachable!("its loop has gone");
            });
            drop(event_loop);
            assert!(*dropped.lock().unwrap(), "what it was to call is kept by nobody");
            assert_eq!(journal.end_of(0), End::LoopEnded);
            journal.assert_whole_lives(1);
            drop(client);
        }
    });
}

#[test]
fn a_loop_may_be_quit_by_the_end_of_its_server() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let server = TcpServer::bind(&event_loop, "127.0.0.1:0")
            .unwrap()
            .on_message(|conn, input| conn.send(input.take_all()))
            .unwrap();
        let address = server.local_addr();
        let client = thread::spawn(move || {
            let mut client = net::connect(address);
            net::assert_echoes(&mut client);
            client
        });
        net::turn_until(&event_loop, || client.is_finished());
        let mut client = client.join().unwrap();
        server.stop(LONG, |event_loop, _| event_loop.quit());
        let reader = thread::spawn(move || net::read_to_end(&mut client));
        event_loop.run().unwrap();
        assert_eq!(reader.join().unwrap(), b"");
    });
}
