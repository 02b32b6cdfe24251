//! `serve_async`: the limits and stops of a server apply to its tasks.

use std::cell::Cell;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;

use crate::support::futures::run;
use crate::support::net::{Host, until};
use crate::support::{LIMIT, with_catching_loop, with_loop, with_watchdog};
use reveille::net::{ByteStream, ConnectionLimits, UnixAddress};
use reveille::time::timeout;
use reveille::{Buffer, EventLoop, TcpServer, task};

async fn echo(mut stream: ByteStream) -> io::Result<()> {
    let mut input = Buffer::new();
    while stream.read_buf(&mut input).await? > 0 {
        stream.write_buf(&mut input).await?;
    }
    Ok(())
}

fn assert_echoes(client: &mut TcpStream, bytes: &[u8]) {
    client.write_all(bytes).unwrap();
    let mut echoed = vec![0; bytes.len()];
    client.read_exact(&mut echoed).unwrap();
    assert_eq!(echoed, bytes);
}

/// Sends when it is dropped.
struct OnDrop(mpsc::Sender<()>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

/// A host whose tasks read without end, and report their drop.
fn waiting(limits: ConnectionLimits) -> (Host, mpsc::Receiver<()>) {
    let (sender, dropped) = mpsc::channel();
    let host = Host::new(move |event_loop| {
        TcpServer::bind(event_loop, "127.0.0.1:0")?.limits(limits).serve_async(move |mut stream| {
            let guard = OnDrop(sender.clone());
            async move {
                stream.write_all("hello").await?;
                // Waits for something else than its stream.
                std::future::pending::<()>().await;
                drop((stream, guard));
                Ok(())
            }
        })
    });
    (host, dropped)
}

#[test]
fn tasks_on_one_loop_share_a_value_that_is_not_send() {
    with_loop(|event_loop| {
        let served = Rc::new(Cell::new(0));
        let count = Rc::clone(&served);
        let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().serve_async(move |stream| {
            count.set(count.get() + 1);
            echo(stream)
        });
        let server = server.unwrap();
        let address = server.local_address().clone();
        run(event_loop, async move {
            for number in 1..4 {
                let mut stream = ByteStream::connect(address.clone()).await.unwrap();
                stream.write_all("hello").await.unwrap();
                let mut bytes = [0; 5];
                stream.read_exact(&mut bytes).await.unwrap();
                assert_eq!(&bytes, b"hello");
                assert_eq!(served.get(), number);
                stream.shutdown().await.unwrap();
                assert_eq!(stream.read(&mut bytes).await.unwrap(), 0);
            }
        });
    });
}

#[test]
fn tasks_on_several_loops_serve_their_connections() {
    with_watchdog(LIMIT, || {
        let host = Host::new(|event_loop| {
            TcpServer::bind(event_loop, "127.0.0.1:0")?.threads(2).serve_async(|stream| async move {
                let not_send = Rc::new(stream);
                echo(Rc::into_inner(not_send).unwrap()).await
            })
        });
        let mut clients: Vec<_> = (0..6).map(|_| host.connect()).collect();
        clients.iter_mut().for_each(|client| assert_echoes(client, b"to every loop"));
    });
}

#[test]
fn a_unix_server_serves_with_tasks() {
    with_loop(|event_loop| {
        let folder = crate::support::folder::Folder::new();
        let path = folder.path().join("socket");
        let address = UnixAddress::path(&path).unwrap();
        let _server = TcpServer::bind(event_loop, address.clone()).unwrap().serve_async(echo).unwrap();
        run(event_loop, async move {
            let mut stream = ByteStream::connect(address).await.unwrap();
            stream.write_all("over a path").await.unwrap();
            let mut bytes = [0; 11];
            stream.read_exact(&mut bytes).await.unwrap();
            assert_eq!(&bytes, b"over a path");
        });
    });
}

#[test]
fn the_idle_timeout_ends_a_task_that_waits_for_something_else() {
    with_watchdog(LIMIT, || {
        let (host, dropped) = waiting(ConnectionLimits::new().idle_timeout(Duration::from_millis(20)));
        let mut client = host.connect();
        assert_eq!(client.read_to_end(&mut Vec::new()).unwrap(), 5);
        dropped.recv().unwrap();
    });
}

#[test]
fn a_server_with_tasks_accepts_no_more_than_its_maximum() {
    with_watchdog(LIMIT, || {
        let host = Host::new(|event_loop| {
            TcpServer::bind(event_loop, "127.0.0.1:0")?.max_connections(2).serve_async(echo)
        });
        let (mut one, mut two, mut three) = (host.connect(), host.connect(), host.connect());
        assert_echoes(&mut one, b"1");
        assert_echoes(&mut two, b"2");
        three.write_all(b"3").unwrap();
        assert_eq!(host.open_connections(), 2);
        one.shutdown(Shutdown::Write).unwrap();
        assert_eq!(one.read(&mut [0; 1]).unwrap(), 0);
        let mut echoed = [0; 1];
        three.read_exact(&mut echoed).unwrap();
        assert_eq!(&echoed, b"3");
    });
}

#[test]
fn a_panic_resets_only_its_connection() {
    with_watchdog(LIMIT, || {
        let host = Host::new(|event_loop| {
            TcpServer::bind(event_loop, "127.0.0.1:0")?.serve_async(|mut stream| async move {
                let mut input = Buffer::new();
                while stream.read_buf(&mut input).await? > 0 {
                    assert!(input.readable() != b"panic", "requested by the test");
                    stream.write_buf(&mut input).await?;
                }
                Ok(())
            })
        });
        let (mut one, mut other) = (host.connect(), host.connect());
        assert_echoes(&mut other, b"before");
        one.write_all(b"panic").unwrap();
        assert_eq!(one.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_echoes(&mut other, b"after");
        until(|| host.open_connections() == 1);
    });
}

#[test]
fn an_error_closes_the_connection_after_its_output() {
    with_watchdog(LIMIT, || {
        let host = Host::new(|event_loop| {
            TcpServer::bind(event_loop, "127.0.0.1:0")?.serve_async(|mut stream| async move {
                stream.write_all("the last words").await?;
                Err(io::Error::other("an error of the task"))
            })
        });
        let mut client = host.connect();
        let mut received = Vec::new();
        client.read_to_end(&mut received).unwrap();
        assert_eq!(received, b"the last words");
        drop(client);
        until(|| host.open_connections() == 0);
    });
}

#[test]
fn a_stop_ends_the_input_of_tasks_that_do_not_wait_for_it() {
    with_catching_loop(|event_loop| {
        let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().serve_async(echo).unwrap();
        let address = server.local_address().clone();
        run(event_loop, async move {
            let mut stream = ByteStream::connect(address).await.unwrap();
            stream.write_all("before").await.unwrap();
            let mut bytes = [0; 6];
            stream.read_exact(&mut bytes).await.unwrap();
            let report = Rc::new(Cell::new(None));
            let reported = Rc::clone(&report);
            server.stop(Duration::from_secs(60), move |_, report| reported.set(Some(report)));
            assert_eq!(stream.read(&mut bytes).await.unwrap(), 0);
            drop(stream);
            while report.take().is_none() {
                task::yield_now().await;
            }
        });
    });
}

#[test]
fn a_task_that_waits_for_the_stop_completes_its_dialogue() {
    with_catching_loop(|event_loop| {
        let serve = |mut stream: ByteStream| async move {
            stream.stop_requested().await;
            stream.write_all("stopping?").await?;
            let mut reply = [0; 3];
            stream.read_exact(&mut reply).await?;
            assert_eq!(&reply, b"yes");
            stream.write_all("done").await
        };
        let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().serve_async(serve).unwrap();
        let address = server.local_address().clone();
        run(event_loop, async move {
            let mut stream = ByteStream::connect(address).await.unwrap();
            // The task must have begun to wait.
            while server.open_connections() == 0 {
                task::yield_now().await;
            }
            task::yield_now().await;
            task::yield_now().await;
            server.stop(Duration::from_secs(60), |_, _| ());
            let mut bytes = [0; 9];
            stream.read_exact(&mut bytes).await.unwrap();
            assert_eq!(&bytes, b"stopping?");
            stream.write_all("yes").await.unwrap();
            let mut rest = Buffer::new();
            while stream.read_buf(&mut rest).await.unwrap() > 0 {}
            assert_eq!(rest.readable(), b"done");
        });
    });
}

#[test]
fn every_future_that_waits_for_a_stop_completes_without_the_stream() {
    with_catching_loop(|event_loop| {
        let serve = |mut stream: ByteStream| async move {
            let (stop, other, dropped) =
                (stream.stop_requested(), stream.stop_requested(), stream.stop_requested());
            let others = task::spawn_local(async move { _ = timeout(Duration::ZERO, dropped).await });
            others.await.expect("no panic");
            let other = task::spawn_local(other);
            // Another owner of the stream reads while the task waits.
            let echo = task::spawn_local(async move {
                let mut input = Buffer::new();
                while stream.read_buf(&mut input).await? > 0 {
                    stream.write_buf(&mut input).await?;
                }
                io::Result::Ok(stream)
            });
            stop.await;
            other.await.expect("no panic");
            let mut stream = echo.await.expect("no panic")?;
            stream.stop_requested().await;
            stream.write_all("done").await
        };
        let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().serve_async(serve).unwrap();
        let address = server.local_address().clone();
        run(event_loop, async move {
            let mut stream = ByteStream::connect(address).await.unwrap();
            let mut bytes = [0; 3];
            stream.write_all("one").await.unwrap();
            stream.read_exact(&mut bytes).await.unwrap();
            server.stop(Duration::from_secs(60), |_, _| ());
            // Two passes of the loop: the tasks know of the stop, and the stream still reads.
            task::yield_now().await;
            task::yield_now().await;
            stream.write_all("two").await.unwrap();
            stream.read_exact(&mut bytes).await.unwrap();
            assert_eq!(&bytes, b"two");
            stream.shutdown().await.unwrap();
            let mut rest = Buffer::new();
            while stream.read_buf(&mut rest).await.unwrap() > 0 {}
            assert_eq!(rest.readable(), b"done");
        });
    });
}

#[test]
fn the_deadline_of_a_stop_aborts_the_tasks() {
    with_watchdog(LIMIT, || {
        let (sender, dropped) = mpsc::channel();
        let event_loop = EventLoop::new().unwrap();
        let server = TcpServer::bind(&event_loop, "127.0.0.1:0").unwrap();
        let server = server.serve_async(move |mut stream| {
            let guard = OnDrop(sender.clone());
            async move {
                stream.write_all("hello").await?;
                std::future::pending::<()>().await;
                drop((stream, guard));
                Ok(())
            }
        });
        let server = server.unwrap();
        let address = server.local_address().clone();
        run(&event_loop, async move {
            let mut stream = ByteStream::connect(address).await.unwrap();
            stream.read_exact(&mut [0; 5]).await.unwrap();
            server.stop(Duration::from_millis(10), |_, _| ());
            while let Err(mpsc::TryRecvError::Empty) = dropped.try_recv() {
                task::yield_now().await;
            }
        });
    });
}

#[test]
fn the_drop_of_a_server_or_of_a_loop_drops_the_tasks() {
    with_watchdog(LIMIT, || {
        let (host, dropped) = waiting(ConnectionLimits::new());
        let mut client = host.connect();
        client.read_exact(&mut [0; 5]).unwrap();
        assert!(dropped.try_recv().is_err());
        drop(host);
        dropped.recv().unwrap();
    });
}
