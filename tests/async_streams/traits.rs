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
fn the_timer_of_hyper_moves_a_sleep_in_place() {
    use std::future::poll_fn;
    use std::task::Poll;
    use std::time::{Duration, Instant};

    use hyper::rt::{Sleep, Timer};
    use reveille::time::LoopTimer;

    crate::support::with_loop(|event_loop| {
        crate::support::futures::run(event_loop, async {
            let address = |sleep: &dyn Sleep| std::ptr::from_ref(sleep).addr();
            let mut sleep = LoopTimer.sleep(Duration::from_secs(24 * 3600));
            let before = address(&*sleep);
            let polled = poll_fn(|context| Poll::Ready(sleep.as_mut().poll(context))).await;
            assert!(polled.is_pending());
            LoopTimer.reset(&mut sleep, Instant::now());
            assert_eq!(address(&*sleep), before);
            sleep.await;
        });
    });
}
