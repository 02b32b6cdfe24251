//! A model of the kernel's eventfd, checked against the kernel: the same calls give the same
//! results.
//!
//! The model covers the guarantees of eventfd(2) and sleeping callers. Only a device's signal, made
//! in the kernel, may exceed the maximum. This part of the model is tested alone.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc;
use std::thread;

use crate::support::net::{self, Child, Random, send_to_parent};
use crate::support::{LIMIT, wait_until_asleep, with_watchdog};
use reveille::EventFd;
use rustix::event::{PollFd, PollFlags, Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

// --- The model

const MAX: u64 = u64::MAX - 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Result {
    /// A read returned this value.
    Read(u64),
    Written,
    Again,
    Invalid,
    /// The caller blocks. Its result follows later.
    Sleeps,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Poll {
    readable: bool,
    writable: bool,
    error: bool,
}

#[derive(Debug)]
struct Model {
    counter: u64,
    semaphore: bool,
    blocking: bool,
    sleeping_readers: usize,
    sleeping_writers: Vec<u64>,
    /// The results of blocked callers that have been woken.
    woken: Vec<Result>,
}

impl Model {
    fn new(initial: u32, semaphore: bool, blocking: bool) -> Model {
        Model {
            counter: initial.into(),
            semaphore,
            blocking,
            sleeping_readers: 0,
            sleeping_writers: Vec::new(),
            woken: Vec::new(),
        }
    }

    /// Returns whether `n` can be added without exceeding the maximum.
    fn fits(&self, n: u64) -> bool {
        self.counter.checked_add(n).is_some_and(|sum| sum <= MAX)
    }

    fn take(&mut self) -> u64 {
        let taken = if self.semaphore { 1 } else { self.counter };
        self.counter -= taken;
        taken
    }

    fn read(&mut self, length: usize) -> Result {
        if length < 8 {
            return Result::Invalid;
        }
        if self.counter == 0 {
            self.sleeping_readers += usize::from(self.blocking);
            return if self.blocking { Result::Sleeps } else { Result::Again };
        }
        let taken = self.take();
        self.wake();
        Result::Read(taken)
    }

    fn write(&mut self, n: u64, length: usize) -> Result {
        if length < 8 || n == u64::MAX {
            return Result::Invalid;
        }
        if !self.fits(n) {
            if self.blocking {
                self.sleeping_writers.push(n);
            }
            return if self.blocking { Result::Sleeps } else { Result::Again };
        }
        self.counter += n;
        self.wake();
        Result::Written
    }

    /// Wakes blocked callers until none can proceed.
    fn wake(&mut self) {
        loop {
            if self.counter > 0 && self.sleeping_readers > 0 {
                self.sleeping_readers -= 1;
                let taken = self.take();
                self.woken.push(Result::Read(taken));
            } else if let Some(at) = self.sleeping_writers.iter().position(|n| self.fits(*n)) {
                self.counter += self.sleeping_writers.remove(at);
                self.woken.push(Result::Written);
            } else {
                return;
            }
        }
    }

    /// A write by the kernel. It never blocks, and saturates at a value that no write(2) can reach.
    fn kernel_write(&mut self, n: u64) {
        self.counter = self.counter.saturating_add(n);
        self.wake();
    }

    fn poll(&self) -> Poll {
        Poll { readable: self.counter > 0, writable: self.counter < MAX, error: self.counter == u64::MAX }
    }
}

// --- The kernel

fn make(initial: u32, semaphore: bool, blocking: bool) -> EventFd {
    let builder = EventFd::builder().initial(initial);
    let builder = if semaphore { builder.semaphore() } else { builder };
    let builder = if blocking { builder.blocking() } else { builder };
    builder.build().expect("an eventfd")
}

fn result<T>(result: rustix::io::Result<T>, good: impl FnOnce(T) -> Result) -> Result {
    match result {
        Ok(value) => good(value),
        Err(Errno::AGAIN) => Result::Again,
        Err(Errno::INVAL) => Result::Invalid,
        Err(error) => panic!("an error outside the model: {error}"),
    }
}

fn read(eventfd: &EventFd, length: usize) -> Result {
    let mut bytes = vec![0; length];
    result(rustix::io::read(eventfd, &mut bytes[..]), |n| {
        assert_eq!(n, 8, "a read returns eight bytes for any buffer size");
        Result::Read(u64::from_ne_bytes(bytes[..8].try_into().expect("eight bytes")))
    })
}

fn write(eventfd: &EventFd, n: u64, length: usize) -> Result {
    let mut bytes = n.to_ne_bytes().to_vec();
    bytes.resize(length, 0xff);
    result(rustix::io::write(eventfd, &bytes), |n| {
        assert_eq!(n, 8, "a write takes eight bytes");
        Result::Written
    })
}

fn poll(eventfd: &EventFd) -> Poll {
    let mut fds = [PollFd::new(eventfd, PollFlags::IN | PollFlags::OUT)];
    rustix::event::poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).expect("a poll");
    let found = fds[0].revents();
    let [readable, writable, error] =
        [PollFlags::IN, PollFlags::OUT, PollFlags::ERR].map(|flag| found.contains(flag));
    Poll { readable, writable, error }
}

/// Returns numbers of all sizes. About one third are edge values, and another third are small.
fn number(random: &mut Random) -> u64 {
    const EDGES: [u64; 8] = [0, 1, 2, u32::MAX as u64, MAX / 2, MAX - 1, MAX, u64::MAX];
    match random.below(3) {
        0 => EDGES[random.below(EDGES.len())],
        1 => random.below(5) as u64,
        _ => random.next() >> random.below(64),
    }
}

/// Returns a length that is at least eight in most cases.
fn length(random: &mut Random) -> usize {
    const LENGTHS: [usize; 16] = [0, 1, 7, 9, 16, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8];
    LENGTHS[random.below(LENGTHS.len())]
}

#[test]
fn random_sequences_match_the_model() {
    with_watchdog(LIMIT, || {
        let mut random = Random::new(0x2f6e_77a1);
        // One epoll instance stays open while the eventfds come and go.
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        for sequence in 0..10_000 {
            let initial = [0, 1, 3, u32::MAX][random.below(4)];
            let semaphore = random.below(2) == 1;
            let (mut model, eventfd) =
                (Model::new(initial, semaphore, false), make(initial, semaphore, false));
            let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
            epoll::add(&epoll, &eventfd, epoll::EventData::new_u64(0), flags).unwrap();
            take_edge(&epoll);
            for step in 0..12 {
                let context = format!("step {step} of sequence {sequence}, after {model:?}");
                let length = length(&mut random);
                if random.below(2) == 0 {
                    assert_eq!(read(&eventfd, length), model.read(length), "read of {length}: {context}");
                    assert!(!take_edge(&epoll), "a read is no edge: {context}");
                } else {
                    // Some kernels refuse more than eight bytes, others truncate them.
                    let (n, length) = (number(&mut random), length.min(8));
                    let expected = model.write(n, length);
                    assert_eq!(
                        write(&eventfd, n, length),
                        expected,
                        "write of {n}, {length} bytes: {context}"
                    );
                    let is_edge = expected == Result::Written && model.counter > 0;
                    assert_eq!(take_edge(&epoll), is_edge, "edge after a write of {n}: {context}");
                }
                assert_eq!(poll(&eventfd), model.poll(), "{context}");
            }
            assert_eq!(read(&eventfd, 8), model.read(8), "the last of sequence {sequence}");
        }
    });
}

/// Returns whether an edge has occurred since the previous call.
fn take_edge(epoll: &OwnedFd) -> bool {
    let mut events = Vec::with_capacity(1);
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    epoll::wait(epoll, rustix::buffer::spare_capacity(&mut events), Some(&now)).expect("a wait");
    !events.is_empty()
}

// --- Blocked callers

/// Runs random calls on a blocking eventfd. A call that the model blocks runs on its own thread,
/// and must be seen asleep. A call that the model wakes must return, and the others must stay
/// asleep.
#[test]
fn blocked_readers_and_writers_wake_as_in_the_model() {
    with_watchdog(LIMIT, || {
        let mut random = Random::new(0x51ee_9e25);
        for sequence in 0..200 {
            let semaphore = random.below(2) == 1;
            let (mut model, eventfd) = (Model::new(0, semaphore, true), make(0, semaphore, true));
            thread::scope(|scope| {
                let (result_sender, result_receiver) = mpsc::channel();
                let mut asleep = Vec::new();
                for step in 0.. {
                    let is_over = step >= 10;
                    if is_over && asleep.is_empty() {
                        break;
                    }
                    // At the end, every blocked call is woken.
                    let reads = if is_over { model.sleeping_readers == 0 } else { random.below(2) == 0 };
                    let is_large = !is_over && random.below(3) == 0;
                    let small = 1 + random.below(3) as u64;
                    let n = if is_large { MAX - small } else { small };
                    let context =
                        format!("step {step} of sequence {sequence}, {n}, reads {reads}, after {model:?}");
                    // At most one writer may be blocked, so that the order of wake-ups is
                    // determined. On a semaphore, a large write would need too many reads before it
                    // fits.
                    let is_bad_sleeper = !model.sleeping_writers.is_empty() || semaphore && is_large;
                    if !reads && !model.fits(n) && is_bad_sleeper
                        || reads && model.counter == 0 && asleep.len() == 3
                    {
                        continue;
                    }
                    let expected = if reads { model.read(8) } else { model.write(n, 8) };
                    let call = {
                        let eventfd = &eventfd;
                        move || if reads { read(eventfd, 8) } else { write(eventfd, n, 8) }
                    };
                    if expected == Result::Sleeps {
                        let (id_sender, id_receiver) = mpsc::channel();
                        let result_sender = result_sender.clone();
                        scope.spawn(move || {
                            let id = rustix::thread::gettid();
                            id_sender.send(id).expect("a listener");
                            result_sender.send((id, call())).expect("a listener");
                        });
                        let id = id_receiver.recv_timeout(LIMIT).expect("a thread");
                        wait_until_asleep(id);
                        asleep.push(id);
                    } else {
                        assert_eq!(call(), expected, "{context}");
                    }
                    let mut woken: Vec<_> = model.woken.drain(..).collect();
                    for _ in 0..woken.len() {
                        let (id, result) =
                            result_receiver.recv_timeout(LIMIT).unwrap_or_else(|_| panic!("{context}"));
                        asleep.retain(|sleeper| *sleeper != id);
                        let at = woken.iter().position(|woken| *woken == result);
                        woken.swap_remove(
                            at.unwrap_or_else(|| panic!("{result:?} and not {woken:?}: {context}")),
                        );
                    }
                    asleep.iter().for_each(|id| wait_until_asleep(*id));
                    assert!(result_receiver.try_recv().is_err(), "spurious wake-up: {context}");
                    assert_eq!(
                        (eventfd.counter().unwrap(), poll(&eventfd)),
                        (model.counter, model.poll()),
                        "{context}"
                    );
                }
            });
        }
    });
}

// --- The model alone

#[test]
fn kernel_writes_in_the_model_saturate_and_set_pollerr() {
    let mut model = Model::new(0, false, true);
    assert_eq!(model.write(MAX, 8), Result::Written);
    assert_eq!(model.poll(), Poll { readable: true, writable: false, error: false });
    for _ in 0..2 {
        model.kernel_write(5);
        assert_eq!(model.poll(), Poll { readable: true, writable: false, error: true });
        assert_eq!(model.counter, u64::MAX);
    }
    assert_eq!(model.write(1, 8), Result::Sleeps);
    assert_eq!(model.read(8), Result::Read(u64::MAX));
    assert_eq!((model.woken, model.counter), (vec![Result::Written], 1));
}

// --- Behaviour that documentation describes inconsistently

#[test]
fn an_empty_read_is_eagain_and_a_short_one_einval() {
    let eventfd = make(0, false, false);
    assert_eq!(rustix::io::read(&eventfd, &mut [0_u8; 8]), Err(Errno::AGAIN));
    assert_eq!(rustix::io::read(&eventfd, &mut [0_u8; 7]), Err(Errno::INVAL));
    assert_eq!(eventfd.read().unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_write_beyond_eight_bytes_is_refused_or_truncated() {
    let eventfd = make(0, false, false);
    match rustix::io::write(&eventfd, &[1_u64.to_ne_bytes(), [0xff; 8]].concat()) {
        Err(Errno::INVAL) => assert_eq!(eventfd.counter().unwrap(), 0),
        result => assert_eq!((result, eventfd.counter().unwrap()), (Ok(8), 1)),
    }
}

#[test]
fn reads_and_writes_use_the_host_byte_order() {
    let eventfd = make(0, false, false);
    rustix::io::write(&eventfd, &1_u64.to_ne_bytes()).unwrap();
    rustix::io::write(&eventfd, &(1_u64 << 32).to_ne_bytes()).unwrap();
    assert_eq!(eventfd.counter().unwrap(), (1 << 32) + 1, "the value in fdinfo");
    let mut bytes = [0_u8; 8];
    rustix::io::read(&eventfd, &mut bytes).unwrap();
    assert_eq!(u64::from_ne_bytes(bytes), (1 << 32) + 1);
}

#[test]
fn a_write_adds_in_plain_and_in_semaphore_mode() {
    for semaphore in [false, true] {
        let eventfd = make(2, semaphore, false);
        eventfd.write(3).unwrap();
        eventfd.write(4).unwrap();
        assert_eq!(eventfd.counter().unwrap(), 9);
    }
}

#[test]
fn a_write_of_zero_is_an_edge_if_the_counter_is_nonzero() {
    let eventfd = make(0, false, false);
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
    epoll::add(&epoll, &eventfd, epoll::EventData::new_u64(0), flags).unwrap();
    eventfd.write(0).unwrap();
    assert!(!take_edge(&epoll), "there is nothing to read");
    eventfd.write(1).unwrap();
    assert!(take_edge(&epoll) && !take_edge(&epoll));
    eventfd.write(0).unwrap();
    assert!(take_edge(&epoll));
}

#[test]
fn an_eventfd_passed_over_a_socket_works_in_another_process() {
    with_watchdog(LIMIT, || {
        let path = std::env::temp_dir().join(format!("reveille-eventfd-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let mut child = Child::start("receiver");
        assert_eq!(child.request(path.to_str().unwrap()), "ready");
        std::fs::remove_file(&path).unwrap();
        let (socket, _) = listener.accept().unwrap();
        let (there, back) = (make(5, false, false), make(0, false, true));
        send(&socket, &there);
        send(&socket, &back);
        // The child adds 1 to the value it reads from one eventfd, and writes the sum to the other.
        assert_eq!(back.read().unwrap(), 6);
        assert_eq!(there.counter().unwrap(), 0, "both have the same counter");
    });
}

/// The child process: receives two eventfds.
#[test]
#[ignore = "runs only in a child process of another test"]
fn child_role() {
    if net::role().is_none() {
        return;
    }
    let mut path = String::new();
    io::stdin().read_line(&mut path).expect("a path");
    let socket = UnixStream::connect(path.trim_end()).expect("a parent that listens");
    send_to_parent("ready");
    let [there, back] = [receive(&socket), receive(&socket)];
    back.write(there.read().expect("a count") + 1).expect("a counter that is not full");
    // Waits until the parent has read its results and closes the pipe.
    let _ = io::stdin().read(&mut [0]);
}

fn send(socket: &UnixStream, eventfd: &EventFd) {
    let fds = [eventfd.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    let sent = rustix::net::sendmsg(socket, &[IoSlice::new(b"x")], &mut control, SendFlags::empty());
    assert_eq!(sent.expect("a peer"), 1);
}

fn receive(socket: &UnixStream) -> EventFd {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut slices = [IoSliceMut::new(&mut byte)];
    rustix::net::recvmsg(socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC).expect("a message");
    let fds = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    EventFd::from(fds.expect("a descriptor"))
}
