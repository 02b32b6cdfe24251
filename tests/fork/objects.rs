//! Objects in forked children. A child that drops its copies does not affect the objects of the
//! parent. Each test runs in its own process.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::thread;
use std::time::Instant;

use crate::support::alone::alone;
use crate::support::files::pipe;
use crate::support::folder::Folder;
use crate::support::forked::{self, in_child};
use crate::support::net::turn_until;
use crate::support::{LIMIT, OnDrop, Recorder, is_readable, turn};
use reveille::fs::{File, FileChanges, FileIo, FileIoBackend, Watcher};
use reveille::io::{Channel, Interest};
use reveille::ipc::SharedRing;
use reveille::net::UnixAddress;
use reveille::process::Child;
use reveille::signal::{Signal, Signals};
use reveille::task::CallError;
use reveille::{Buffer, ConnectionHandler, EventFd, EventLoop, LoopPool, LoopThread, TcpClient};
use reveille::{TcpConnection, TcpServer, UdpSocket};
use rustix::process::{getpid, kill_process};

fn with_parent(test: impl FnOnce(EventLoop) + Send + 'static) {
    alone(|| test(EventLoop::builder().propagate_panics().build().unwrap()));
}

#[test]
fn dropping_copies_does_not_affect_the_parents_sources() {
    with_parent(|event_loop| {
        let called = Recorder::new();
        let recorder = |name: &'static str| {
            let called = called.clone();
            move || called.record(name)
        };
        let (reader, mut writer) = pipe();
        let record_call = recorder("channel");
        let mut channel = Some(Channel::new(&event_loop, reader, Interest::READABLE, move |event| {
            record_call();
            event.close();
        }));
        let eventfd = EventFd::new(0).unwrap();
        let eventfd_writer = eventfd.try_clone().unwrap();
        let record_call = recorder("eventfd");
        let mut eventfd = Some(eventfd.watch(&event_loop, move |_, _| record_call()));
        let record_call = recorder("signal");
        let mut signals = Some(Signals::new(&event_loop, [Signal::USR1], move |_, _| record_call()));
        let record_call = recorder("process");
        let mut command = Command::new("cat");
        let child = Child::spawn(&event_loop, command.stdin(Stdio::piped()), move |_, status| {
            assert!(status.unwrap().success());
            record_call();
        });
        let mut child = Some(child.unwrap().kill_on_drop());
        let folder = Folder::new();
        let record_call = recorder("watcher");
        let watcher = Watcher::new(&event_loop, move |_| record_call()).unwrap();
        watcher.watch(folder.path(), FileChanges::CREATED).unwrap();
        let mut watcher = Some(watcher);
        let record_call = recorder("timer");
        event_loop.run_at(Instant::now(), move |_| record_call());
        let (mut peer_ring, descriptors) = SharedRing::create(4096).unwrap();
        let record_call = recorder("ring");
        let own_ring = SharedRing::from_descriptors(descriptors, 1 << 20).unwrap();
        let mut ring = Some(own_ring.watch(&event_loop, move |_, _| record_call()));
        let mut event_loop = Some(event_loop);

        in_child(|| {
            drop((channel.take(), eventfd.take(), signals.take(), child.take(), watcher.take(), ring.take()));
            drop(event_loop.take());
        });

        let event_loop = event_loop.unwrap();
        writer.write_all(b"x").unwrap();
        eventfd_writer.signal().unwrap();
        kill_process(getpid(), rustix::process::Signal::USR1).unwrap();
        std::fs::write(folder.join("new"), "").unwrap();
        peer_ring.send("word").unwrap();
        drop(child.as_mut().unwrap().take_stdin());
        let mut all = Vec::new();
        turn_until(&event_loop, || {
            all.extend(called.take());
            all.len() >= 7
        });
        all.sort_unstable();
        assert_eq!(all, ["channel", "eventfd", "process", "ring", "signal", "timer", "watcher"]);
    });
}

#[test]
fn dropping_copies_does_not_affect_the_parents_sockets() {
    with_parent(|event_loop| {
        let folder = Folder::new();
        let path = folder.join("socket");
        let unix = TcpServer::bind_unix(&event_loop, &path).unwrap();
        let unix = unix.serve_fn(|conn, input| conn.send(input.take_all())).unwrap();
        let tcp = TcpServer::bind(&event_loop, "127.0.0.1:0").unwrap();
        let tcp = tcp.serve_fn(|conn, input| conn.send(input.take_all())).unwrap();
        let pool_server = TcpServer::bind(&event_loop, "127.0.0.1:0").unwrap().threads(2);
        let pool_server = pool_server.serve_fn(|conn, input| conn.send(input.take_all())).unwrap();
        let udp = UdpSocket::bind(&event_loop, "127.0.0.1:0").unwrap();
        let udp = udp.serve_fn(|socket, datagram, from| socket.send_to(datagram, from)).unwrap();
        let replies = Recorder::new();
        let recording = replies.clone();
        let client = TcpClient::connect(&event_loop, tcp.local_addr().unwrap());
        let client = client.serve_fn(move |_, input| recording.record(input.take_all().to_vec())).unwrap();
        let plain = TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
        let mut early = UnixStream::connect(&path).unwrap();
        turn_until(&event_loop, || {
            tcp.open_connections() == 2 && unix.open_connections() == 1 && client.handle().is_some()
        });
        let (address, pool_address, udp_address) =
            (tcp.local_addr().unwrap(), pool_server.local_addr().unwrap(), udp.local_addr().unwrap());
        let mut objects = Some((unix, tcp, pool_server, udp, client));
        let mut event_loop = Some(event_loop);

        in_child(|| {
            drop(objects.take());
            drop(event_loop.take());
        });
        // The loop is dropped first.
        in_child(|| {
            drop(event_loop.take());
            drop(objects.take());
        });

        let event_loop = event_loop.unwrap();
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.send_to(b"word", udp_address).unwrap();
        assert!(path.exists());
        let mut streams = [plain, TcpStream::connect(address).unwrap()];
        let mut unix = UnixStream::connect(&path).unwrap();
        for stream in &mut streams {
            stream.write_all(b"word").unwrap();
        }
        unix.write_all(b"word").unwrap();
        early.write_all(b"word").unwrap();
        objects.as_ref().unwrap().4.handle().unwrap().send("word").unwrap();
        turn_until(&event_loop, || {
            replies.len() == 1
                && is_readable(&unix)
                && is_readable(&early)
                && is_readable(&sender)
                && streams.iter().all(is_readable)
        });
        for stream in &mut streams {
            let mut word = [0; 4];
            stream.read_exact(&mut word).unwrap();
            assert_eq!(&word, b"word");
        }
        for stream in [&mut unix, &mut early] {
            let mut word = [0; 4];
            stream.read_exact(&mut word).unwrap();
            assert_eq!(&word, b"word");
        }
        // A connection that the pool serves.
        let mut pooled = TcpStream::connect(pool_address).unwrap();
        pooled.write_all(b"word").unwrap();
        turn_until(&event_loop, || is_readable(&pooled));
    });
}

#[test]
fn dropping_copies_does_not_affect_file_operations() {
    for backend in [Some(FileIoBackend::ThreadPool), None] {
        with_parent(move |event_loop| {
            let builder = FileIo::builder();
            let files = backend.map_or(builder.clone(), |backend| builder.backend(backend));
            let files = files.build(&event_loop).unwrap();
            let (reader, mut writer) = pipe();
            let (file, read) = (File::from(reader), Recorder::new());
            let recording = read.clone();
            files.read(&file, vec![0; 4], move |_, n, buffer| recording.record((n.unwrap(), buffer)));
            turn(&event_loop);
            let (mut files, mut event_loop) = (Some(files), Some(event_loop));
            in_child(|| {
                files.as_ref().unwrap().read(&file, vec![0; 4], |_, _, _| panic!("called in the child"));
                drop(files.take());
                drop(event_loop.take());
            });
            in_child(|| drop(event_loop.take()));
            writer.write_all(b"word").unwrap();
            turn_until(event_loop.as_ref().unwrap(), || read.len() == 1);
            assert_eq!(read.take(), [(4, b"word".to_vec())]);
        });
    }
}

#[test]
fn a_close_in_a_child_does_not_reset_the_parents_connection() {
    alone(|| {
        let event_loop = EventLoop::new().unwrap();
        let server = TcpServer::bind(&event_loop, "127.0.0.1:0").unwrap();
        let server = server
            .serve_fn(|conn, input| {
                input.clear();
                // More than the send buffer of the kernel holds.
                conn.send(vec![7; 8 << 20])?;
                in_child(|| conn.close());
                conn.shutdown();
                Ok::<(), std::io::Error>(())
            })
            .unwrap();
        let mut client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        client.write_all(b"all of it").unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let reader = thread::spawn(move || {
            let mut bytes = Vec::new();
            client.read_to_end(&mut bytes).map(|_| bytes.len())
        });
        turn_until(&event_loop, || reader.is_finished());
        assert_eq!(reader.join().unwrap().unwrap(), 8 << 20);
    });
}

/// The output of a callback is collected until the callback returns, also in a child.
#[test]
fn a_child_forked_in_a_callback_does_not_repeat_its_output() {
    with_parent(|event_loop| {
        let server = TcpServer::bind(&event_loop, "127.0.0.1:0").unwrap();
        let server = server
            .serve_fn(|conn, input| {
                input.clear();
                conn.send("once")?;
                forked::fork_process();
                std::io::Result::Ok(())
            })
            .unwrap();
        let mut client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        while server.open_connections() == 0 {
            turn(&event_loop);
        }
        client.write_all(b"?").unwrap();
        let turned = event_loop.run_once(LIMIT);
        forked::exit_child_and_wait(|| assert!(turned.is_err()));
        drop(server);
        turn(&event_loop);
        let mut bytes = Vec::new();
        client.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"once");
    });
}

#[test]
fn a_child_does_not_wait_for_inherited_threads() {
    with_parent(|_| {
        let mut thread = Some(LoopThread::spawn("thread").unwrap());
        let mut pool = Some(LoopPool::new(2, "pool").unwrap());
        in_child(|| {
            let thread = thread.take().unwrap();
            assert_eq!(thread.handle().call(|_| 1), Err(CallError::LoopEnded));
            assert_eq!(thread.join().unwrap_err().kind(), ErrorKind::Unsupported);
            drop(pool.take());
        });
        in_child(|| drop(thread.take()));
        assert_eq!(thread.as_ref().unwrap().handle().call(|_| 1), Ok(1));
        for handle in pool.as_ref().unwrap().handles() {
            assert_eq!(handle.call(|_| 1), Ok(1));
        }
    });
}

#[test]
fn a_child_owns_the_objects_that_it_creates() {
    with_parent(|_event_loop| {
        let folder = Folder::new();
        let path = folder.join("socket");
        in_child(|| {
            let event_loop = EventLoop::new().unwrap();
            let address = UnixAddress::path(path.as_path()).unwrap();
            let server = TcpServer::bind_unix(&event_loop, address).unwrap().serve_fn(|_, _| ()).unwrap();
            assert!(path.exists());
            drop(server);
            assert!(!path.exists());
        });
    });
}

struct Echo;

impl ConnectionHandler for Echo {
    fn on_message(&mut self, conn: &TcpConnection<'_>, input: &mut Buffer) -> std::io::Result<()> {
        conn.send(input.take_all())?;
        Ok(())
    }
}

#[test]
fn a_child_cannot_use_a_pool_or_end_its_servers() {
    with_parent(|event_loop| {
        let mut pool = Some(LoopPool::new(2, "pool").unwrap());
        let serve = |pool: &Option<LoopPool>| {
            let builder = TcpServer::bind(&event_loop, "127.0.0.1:0").unwrap();
            let builder = builder.pool(pool.as_ref().unwrap());
            builder.serve_per_loop(|_| Ok(Rc::new(())), |_, _| Echo).unwrap()
        };
        let (detached, mut server) = (serve(&pool).detach(), Some(serve(&pool)));
        let addresses = [detached.local_addr().unwrap(), server.as_ref().unwrap().local_addr().unwrap()];
        let mut event_loop = Some(event_loop);
        in_child(|| {
            let builder = TcpServer::bind(event_loop.as_ref().unwrap(), "127.0.0.1:0").unwrap();
            let inherited = builder.threads(2).serve_fn(|_, _| ());
            assert_eq!(inherited.unwrap_err().kind(), ErrorKind::Unsupported);
            drop(event_loop.take());
            let own = EventLoop::new().unwrap();
            let builder = TcpServer::bind(&own, "127.0.0.1:0").unwrap().pool(pool.as_ref().unwrap());
            let inherited = builder.serve_per_loop(|_| Ok(()), |(), _| Echo);
            assert_eq!(inherited.unwrap_err().kind(), ErrorKind::Unsupported);
            drop(server.take());
            drop(pool.take());
        });
        in_child(|| drop(server.take().unwrap().detach()));
        let event_loop = event_loop.unwrap();
        for address in addresses {
            for _ in 0..2 {
                let mut client = TcpStream::connect(address).unwrap();
                client.write_all(b"word").unwrap();
                turn_until(&event_loop, || is_readable(&client));
                let mut word = [0; 4];
                client.read_exact(&mut word).unwrap();
                assert_eq!(&word, b"word");
            }
        }
    });
}

#[test]
fn a_child_forked_in_init_does_not_run_the_loop() {
    with_parent(|_| {
        let parent = getpid();
        let thread = LoopThread::spawn_with("forking", move |event_loop| {
            event_loop.queue_in_loop(move |_| assert_eq!(getpid(), parent));
            forked::fork_process();
            if getpid() == parent {
                forked::exit_child_and_wait(|| ());
                return Ok(None);
            }
            // The thread drops the value, which ends the child.
            Ok(Some(OnDrop::new(|| forked::exit_child_and_wait(|| ()))))
        });
        thread.unwrap().join().unwrap();
    });
}
