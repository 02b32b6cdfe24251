//! What operations have done when their futures are dropped, beyond the cases beside each source.

use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::mpsc;
use std::task::{Context, Waker};
use std::time::Duration;

use crate::support::files::with_both_backends;
use crate::support::folder::Folder;
use crate::support::futures::{CountingWaker, Gate, poll_once, run};
use crate::support::udp::{plain, receive};
use crate::support::{Count, OnDrop, on_another_thread, turn, with_clock, with_loop};
use reveille::UdpSocket;
use reveille::fs::{FileIoBuilder, OpenOptions};
use reveille::task::Workers;
use reveille::time::{interval, sleep, timeout};

#[test]
fn a_dropped_send_of_a_datagram_sends_nothing() {
    with_loop(|event_loop| {
        let socket = UdpSocket::bind(event_loop, "127.0.0.1:0").unwrap().open_async().unwrap();
        let peer = plain();
        let to = peer.local_addr().unwrap();
        // Before the first event of the kernel each send waits.
        for _ in 0..3 {
            assert!(poll_once(&mut pin!(socket.send_to("dropped", to))).is_pending());
        }
        run(event_loop, async move { socket.send_to("sent", to).await }).unwrap();
        assert_eq!(receive(&peer), b"sent");
    });
}

#[test]
fn a_dropped_timeout_drops_its_future_and_leaves_no_timer() {
    with_clock(|event_loop, _| {
        let drops = Count::default();
        let token = drops.drop_token();
        let held = async move {
            token.keep();
            std::future::pending::<()>().await;
        };
        {
            let mut limited = pin!(timeout(Duration::from_secs(1), held));
            assert!(poll_once(&mut limited).is_pending());
            assert!(event_loop.next_deadline().is_some());
        }
        assert_eq!(drops.get(), 1);
        assert!(event_loop.next_deadline().is_none());
        let mut ticking = interval(Duration::from_secs(1));
        assert!(poll_once(&mut pin!(ticking.tick())).is_pending());
        drop(ticking);
        assert!(event_loop.next_deadline().is_none());
    });
}

#[test]
fn a_dropped_sleep_wakes_nothing() {
    with_clock(|event_loop, _| {
        let wakes = Count::default();
        let waker = CountingWaker::waker(&wakes);
        let mut sleeping = Box::pin(sleep(Duration::from_secs(1)));
        assert!(sleeping.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        drop(sleeping);
        event_loop.run_for(Duration::from_secs(2)).unwrap();
        assert_eq!(wakes.get(), 0);
        // Nor does one that is polled with another waker wake the first.
        let mut sleeping = Box::pin(sleep(Duration::from_secs(1)));
        assert!(sleeping.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        assert!(sleeping.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        event_loop.run_for(Duration::from_secs(2)).unwrap();
        assert_eq!(wakes.get(), 0);
    });
}

#[test]
fn the_result_of_a_job_whose_future_is_dropped_ends_on_the_loop() {
    with_loop(|event_loop| {
        let workers = Rc::new(Workers::builder().threads(1).build().unwrap());
        let (begin, begun) = mpsc::channel();
        let (hold, held) = mpsc::channel::<()>();
        let (drops, home) = (Count::default(), std::thread::current().id());
        let counting = drops.clone();
        let running = Rc::clone(&workers);
        let job = event_loop.spawn_local(async move {
            let result = running.run(move || {
                begin.send(()).unwrap();
                let _ = held.recv();
                OnDrop::new(move || {
                    assert_eq!(std::thread::current().id(), home);
                    counting.add();
                })
            });
            drop(result.await);
        });
        turn(event_loop);
        begun.recv().unwrap();
        job.abort();
        (0..3).for_each(|_| turn(event_loop));
        assert_eq!(drops.get(), 0);
        drop(hold);
        event_loop.run_until_idle().unwrap();
        drop(workers);
        (0..3).for_each(|_| turn(event_loop));
        assert_eq!(drops.get(), 1);
    });
}

#[test]
fn a_dropped_wait_for_a_future_or_a_call_leaves_it_running() {
    with_loop(|event_loop| {
        let (gate, ran, wakes) = (Gate::default(), Count::default(), Count::default());
        let (wait, counting) = (gate.wait(), ran.clone());
        let joined = event_loop.spawn_local(async move {
            wait.await;
            counting.add();
        });
        let (handle, counting) = (event_loop.handle(), ran.clone());
        let call = on_another_thread(move || handle.call_async(move |_| counting.add()));
        let waker = CountingWaker::waker(&wakes);
        let mut context = Context::from_waker(&waker);
        {
            let (mut joined, mut call) = (joined, call);
            assert!(Pin::new(&mut joined).poll(&mut context).is_pending());
            assert!(Pin::new(&mut call).poll(&mut context).is_pending());
        }
        turn(event_loop);
        gate.open();
        event_loop.run_until_idle().unwrap();
        assert_eq!((ran.get(), wakes.get()), (2, 0));
    });
}

with_both_backends! {
    a_dropped_write_writes_all_or_nothing
    a_dropped_close_closes_the_file
}

fn a_dropped_write_writes_all_or_nothing(builder: FileIoBuilder) {
    with_loop(move |event_loop| {
        let files = builder.build(event_loop).unwrap();
        let folder = Folder::new();
        let path = folder.join("file");
        let options = OpenOptions::reading_and_writing().create();
        let (files, file) = run(event_loop, async move {
            let file = files.open_async(&path, options).await.unwrap();
            (files, file)
        });
        for turns in 0..4 {
            {
                let mut write = Box::pin(files.write_at_async(&file, 0, vec![b'w'; 4096]));
                assert!(write.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
                (0..turns).for_each(|_| turn(event_loop));
            }
            event_loop.run_until_idle().unwrap();
            let content = std::fs::read(folder.join("file")).unwrap();
            assert!(content.is_empty() || content == [b'w'; 4096], "{} bytes", content.len());
        }
        assert_eq!(files.pending(), 0);
    });
}

fn a_dropped_close_closes_the_file(builder: FileIoBuilder) {
    with_loop(move |event_loop| {
        let files = builder.build(event_loop).unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        {
            let mut close = Box::pin(files.close_async(writer.into()));
            assert!(close.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        event_loop.run_until_idle().unwrap();
        // Without a writer the pipe has ended.
        let read = on_another_thread(move || rustix::io::read(&reader, &mut [0; 1]));
        assert_eq!(read, Ok(0));
    });
}
