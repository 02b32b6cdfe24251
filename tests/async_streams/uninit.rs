//! Reads of the traits of tokio and hyper into memory that is not initialised.

use std::fs::File;
use std::future::poll_fn;
use std::io::Write;
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::thread::{self, JoinHandle};

use crate::data::pattern;
use crate::support::futures::run;
use crate::support::{MIB, with_loop};
use reveille::net::ByteStream;
use reveille::{EventLoop, TcpConnection};

/// Sizes of the reads, below and above the pieces of any copy.
const SIZES: [usize; 5] = [1, 100, 5000, 8192, 70_000];

/// Sends the pattern from a thread, and closes.
fn sending(mut peer: impl Write + Send + 'static) -> JoinHandle<()> {
    thread::spawn(move || peer.write_all(&pattern(MIB)).unwrap())
}

fn tcp(event_loop: &EventLoop) -> (ByteStream, JoinHandle<()>) {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (socket, _) = listener.accept().unwrap();
    (TcpConnection::builder(event_loop).adopt_async(socket).unwrap(), sending(peer))
}

fn unix(event_loop: &EventLoop) -> (ByteStream, JoinHandle<()>) {
    let (socket, peer) = UnixStream::pair().unwrap();
    (TcpConnection::builder(event_loop).adopt_async(socket).unwrap(), sending(peer))
}

fn pipe(event_loop: &EventLoop) -> (ByteStream, JoinHandle<()>) {
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let ((input, peer), (reader, output)): ((OwnedFd, OwnedFd), _) = (pipe(), pipe());
    let stream = TcpConnection::builder(event_loop).adopt_pipes_async(input, output).unwrap();
    let sending = sending(File::from(peer));
    // The output stays open until all is sent.
    let sending = thread::spawn(move || {
        sending.join().unwrap();
        drop(reader);
    });
    (stream, sending)
}

#[cfg(feature = "tokio")]
async fn read_with_tokio(stream: &mut ByteStream, size: usize, before: &[u8]) -> Vec<u8> {
    use tokio::io::{AsyncRead, ReadBuf};

    let mut space = vec![MaybeUninit::uninit(); before.len() + size];
    let mut read = ReadBuf::uninit(&mut space);
    read.put_slice(before);
    poll_fn(|context| Pin::new(&mut *stream).poll_read(context, &mut read)).await.unwrap();
    assert_eq!(read.initialized(), read.filled(), "no other byte counts as initialised");
    read.filled().to_vec()
}

#[cfg(feature = "hyper")]
async fn read_with_hyper(stream: &mut ByteStream, size: usize, before: &[u8]) -> Vec<u8> {
    use hyper::rt::{Read, ReadBuf};

    let mut space = vec![MaybeUninit::uninit(); before.len() + size];
    let mut read = ReadBuf::uninit(&mut space);
    read.unfilled().put_slice(before);
    poll_fn(|context| Pin::new(&mut *stream).poll_read(context, read.unfilled())).await.unwrap();
    read.filled().to_vec()
}

/// Reads the whole stream of each kind with reads of all sizes.
fn check<F: AsyncFn(&mut ByteStream, usize, &[u8]) -> Vec<u8> + 'static>(make: fn() -> F) {
    for open in [tcp, unix, pipe] {
        with_loop(move |event_loop| {
            let (mut stream, peer) = open(event_loop);
            let read = make();
            run(event_loop, async move {
                let mut received = Vec::new();
                for (size, before) in
                    SIZES.iter().cycle().zip([b"".as_slice(), b"before"].into_iter().cycle())
                {
                    let bytes = read(&mut stream, *size, before).await;
                    let new = bytes.strip_prefix(before).expect("earlier bytes stay");
                    assert!(new.len() <= *size);
                    if new.is_empty() {
                        break;
                    }
                    received.extend_from_slice(new);
                }
                assert!(received == pattern(MIB));
                assert_eq!(read(&mut stream, 10, b"end").await, b"end");
            });
            peer.join().unwrap();
        });
    }
}

#[cfg(feature = "tokio")]
#[test]
fn reads_of_tokio_fill_uninitialised_memory_in_order() {
    check(|| read_with_tokio);
}

#[cfg(feature = "hyper")]
#[test]
fn reads_of_hyper_fill_uninitialised_memory_in_order() {
    check(|| read_with_hyper);
}
