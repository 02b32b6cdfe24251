//! The traits of other crates.

#[cfg(feature = "futures-io")]
#[test]
fn the_traits_of_futures_io_pass_bytes_and_ends() {
    use std::future::poll_fn;
    use std::pin::Pin;

    use futures_io::{AsyncRead, AsyncWrite};

    crate::support::with_loop(|event_loop| {
        let (mut one, mut other) = reveille::TcpConnection::builder(event_loop).pair_async().unwrap();
        crate::support::futures::run(event_loop, async move {
            let slices = [std::io::IoSlice::new(b"one "), std::io::IoSlice::new(b"two")];
            assert_eq!(
                poll_fn(|context| Pin::new(&mut one).poll_write_vectored(context, &slices)).await.unwrap(),
                7
            );
            poll_fn(|context| Pin::new(&mut one).poll_flush(context)).await.unwrap();
            poll_fn(|context| Pin::new(&mut one).poll_close(context)).await.unwrap();
            let mut bytes = [0; 10];
            assert_eq!(
                poll_fn(|context| Pin::new(&mut other).poll_read(context, &mut bytes)).await.unwrap(),
                7
            );
            assert_eq!(&bytes[..7], b"one two");
            assert_eq!(
                poll_fn(|context| Pin::new(&mut other).poll_read(context, &mut bytes)).await.unwrap(),
                0
            );
        });
    });
}

#[cfg(feature = "tokio")]
#[test]
fn the_traits_of_tokio_pass_bytes_and_ends() {
    use std::future::poll_fn;
    use std::pin::Pin;

    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

    crate::support::with_loop(|event_loop| {
        let (mut one, mut other) = reveille::TcpConnection::builder(event_loop).pair_async().unwrap();
        crate::support::futures::run(event_loop, async move {
            assert_eq!(poll_fn(|context| Pin::new(&mut one).poll_write(context, b"bytes")).await.unwrap(), 5);
            poll_fn(|context| Pin::new(&mut one).poll_shutdown(context)).await.unwrap();
            let mut bytes = [0; 10];
            let mut read = ReadBuf::new(&mut bytes);
            poll_fn(|context| Pin::new(&mut other).poll_read(context, &mut read)).await.unwrap();
            poll_fn(|context| Pin::new(&mut other).poll_read(context, &mut read)).await.unwrap();
            assert_eq!(read.filled(), b"bytes");
        });
    });
}

#[cfg(feature = "hyper")]
#[test]
fn the_traits_of_hyper_pass_bytes_and_ends() {
    use std::future::poll_fn;
    use std::pin::Pin;

    use hyper::rt::{Read, ReadBuf, Write};

    crate::support::with_loop(|event_loop| {
        let (mut one, mut other) = reveille::TcpConnection::builder(event_loop).pair_async().unwrap();
        crate::support::futures::run(event_loop, async move {
            assert_eq!(poll_fn(|context| Pin::new(&mut one).poll_write(context, b"bytes")).await.unwrap(), 5);
            poll_fn(|context| Pin::new(&mut one).poll_shutdown(context)).await.unwrap();
            let mut bytes = [0; 10];
            let mut read = ReadBuf::new(&mut bytes);
            poll_fn(|context| Pin::new(&mut other).poll_read(context, read.unfilled())).await.unwrap();
            poll_fn(|context| Pin::new(&mut other).poll_read(context, read.unfilled())).await.unwrap();
            assert_eq!(read.filled(), b"bytes");
        });
    });
}

#[cfg(feature = "hyper")]
#[test]
fn the_timer_of_hyper_uses_the_clock_of_the_loop() {
    use std::time::Duration;

    use hyper::rt::Timer;
    use reveille::time::LoopTimer;

    const HOUR: Duration = Duration::from_secs(3600);
    crate::support::with_clock(|event_loop, clock| {
        let clock = clock.clone();
        let pass = async move |time| {
            let passed = reveille::time::sleep(time);
            clock.advance(time);
            passed.await;
        };
        crate::support::futures::run(event_loop, async move {
            let before = LoopTimer.now();
            let mut sleep = LoopTimer.sleep(HOUR);
            pass(HOUR / 2).await;
            assert_eq!(LoopTimer.now(), before + HOUR / 2);
            let place = std::ptr::from_ref(&*sleep).addr();
            LoopTimer.reset(&mut sleep, before + 2 * HOUR);
            assert_eq!(std::ptr::from_ref(&*sleep).addr(), place, "the sleep is not another one");
            let waiting = reveille::task::spawn_local(sleep);
            pass(HOUR).await;
            assert!(!waiting.is_finished());
            pass(HOUR / 2).await;
            waiting.await.expect("no panic");
            assert_eq!(LoopTimer.now(), before + 2 * HOUR);
        });
    });
}
