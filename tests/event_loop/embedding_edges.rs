//! A loop embedded in an edge-triggered poller, such as tokio's `AsyncFd` or mio: all work that
//! becomes pending triggers a new edge of the loop's descriptor, and the descriptor is not readable
//! when nothing is pending.

use std::any::Any;
use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::support::udp::plain;
use crate::support::{
    Count, LIMIT, is_readable, on_another_thread, turn, wait_readable, with_clock, with_loop, with_watchdog,
};
use reveille::io::{Channel, ChannelEvent, Interest};
use reveille::ipc::SharedRing;
use reveille::net::{CloseReason, DatagramHandler, StopReport, UdpRef};
use reveille::time::Repeat;
use reveille::{EventLoop, TcpServer, UdpSocket};
use rustix::event::{Timespec, epoll};

const NOW: Option<&Timespec> = Some(&Timespec { tv_sec: 0, tv_nsec: 0 });

/// An edge-triggered poller that watches the loop.
struct Outer(OwnedFd);

impl Outer {
    fn new(event_loop: &EventLoop) -> Outer {
        let outer = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&outer, event_loop, epoll::EventData::new_u64(7), flags).unwrap();
        Outer(outer)
    }

    fn has_edge(&self) -> bool {
        self.wait(NOW)
    }

    /// Sleeps until there is an edge.
    fn await_edge(&self) {
        assert!(self.wait(None), "a wait without a timeout ends with an event");
    }

    fn wait(&self, timeout: Option<&Timespec>) -> bool {
        let mut events = Vec::with_capacity(1);
        epoll::wait(&self.0, rustix::buffer::spare_capacity(&mut events), timeout).unwrap() == 1
    }

    /// Runs the loop on edges alone until `done` returns true.
    fn drive(&self, run: Run, event_loop: &EventLoop, done: impl Fn() -> bool) {
        while !done() {
            self.await_edge();
            run(event_loop);
        }
    }

    /// Runs the loop on edges until there are none, and checks that no work is left.
    fn settle(&self, run: Run, event_loop: &EventLoop, after: &str) {
        while self.has_edge() {
            run(event_loop);
        }
        assert!(!is_readable(event_loop), "nothing is left after {after}");
    }
}

/// The reaction of an outer loop to an edge.
type Run = fn(&EventLoop);

const ONE_TURN: Run = turn;
const ALL_TURNS: Run = |event_loop| event_loop.run_ready().expect("turns");

/// Values that are kept alive until the end of a test.
type Kept = Box<dyn Any>;

/// A request made between two turns. Its effect is counted.
type Request = Box<dyn FnOnce(&EventLoop, Count) -> Kept>;

/// Prepares a request and its prerequisites. The loop may be run between the two, but need not be.
type Prepare = fn(&EventLoop, Count) -> Request;

fn counting(count: Count) -> impl FnOnce(&EventLoop) + Send {
    move |_| count.add()
}

/// Every kind of work that can become pending between two turns without the kernel.
const KINDS: &[(&str, Prepare)] = &[
    ("a timer", |_, _| {
        Box::new(|event_loop, count| {
            Box::new(event_loop.run_after(Duration::from_millis(2), counting(count)))
        })
    }),
    ("a timer that is due", |_, _| {
        Box::new(|event_loop, count| Box::new(event_loop.run_after(Duration::ZERO, counting(count))))
    }),
    ("a repeating timer", |_, _| {
        Box::new(|event_loop, count| {
            let first = Instant::now() + Duration::from_millis(2);
            let repeat = Repeat::every(Duration::from_secs(3600)).first_at(first);
            Box::new(event_loop.run_every(repeat, move |_| count.add()))
        })
    }),
    ("a timer before another", |event_loop, _| {
        event_loop.run_after(Duration::from_secs(3600), |_| ());
        Box::new(|event_loop, count| {
            Box::new(event_loop.run_after(Duration::from_millis(2), counting(count)))
        })
    }),
    ("a timer that is moved closer", |event_loop, count| {
        let id = event_loop.run_after(Duration::from_secs(3600), counting(count));
        Box::new(move |event_loop, _| {
            assert!(event_loop.reset(id, Duration::from_millis(2)));
            Box::new(())
        })
    }),
    ("a timer that is moved to the present", |event_loop, count| {
        let id = event_loop.run_after(Duration::from_secs(3600), counting(count));
        Box::new(move |event_loop, _| {
            assert!(event_loop.reset_at(id, Instant::now()));
            Box::new(())
        })
    }),
    ("a timer created through a handle", |_, _| {
        Box::new(|event_loop, count| {
            let delay = Duration::from_millis(2);
            Box::new(event_loop.handle().run_after(delay, counting(count)).unwrap())
        })
    }),
    ("a timer of another thread's handle", |_, _| {
        Box::new(|event_loop, count| {
            let handle = event_loop.handle();
            let make = || handle.run_after(Duration::from_millis(2), counting(count)).unwrap();
            Box::new(on_another_thread(make))
        })
    }),
    ("a timer created through a handle that is moved closer", |event_loop, count| {
        let id = event_loop.handle().run_after(Duration::from_secs(3600), counting(count)).unwrap();
        Box::new(move |event_loop, _| {
            let handle = event_loop.handle();
            assert!(on_another_thread(|| handle.reset(id, Duration::from_millis(2))));
            Box::new(())
        })
    }),
    ("a task", |_, _| {
        Box::new(|event_loop, count| {
            event_loop.queue_in_loop(counting(count));
            Box::new(())
        })
    }),
    ("another thread's task", |_, _| {
        Box::new(|event_loop, count| {
            let handle = event_loop.handle();
            on_another_thread(|| handle.queue_in_loop(counting(count)).unwrap());
            Box::new(())
        })
    }),
    ("a chain of tasks", |_, _| {
        Box::new(|event_loop, count| {
            event_loop.queue_in_loop(|event_loop| {
                event_loop.queue_in_loop(|event_loop| event_loop.queue_in_loop(counting(count)));
            });
            Box::new(())
        })
    }),
    ("a channel that is ready", |_, _| {
        Box::new(|event_loop, count| {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(b"x").unwrap();
            Box::new((Channel::new(event_loop, ours, Interest::READABLE, reading(count)).unwrap(), theirs))
        })
    }),
    ("a channel whose new interest is ready", |event_loop, count| {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"x").unwrap();
        let channel = Channel::new(event_loop, ours, Interest::EMPTY, reading(count)).unwrap();
        Box::new(move |_, _| {
            channel.set_interest(Interest::READABLE).unwrap();
            Box::new((channel, theirs))
        })
    }),
    ("a datagram socket that receives again", |event_loop, count| {
        let socket = UdpSocket::bind(event_loop, "127.0.0.1:0").unwrap();
        let socket = socket.serve_fn(move |_, _, _| count.add()).unwrap();
        socket.pause_receiving();
        plain().send_to(b"x", socket.local_addr().unwrap()).unwrap();
        wait_readable(event_loop);
        turn(event_loop);
        Box::new(|_, _| {
            socket.resume_receiving();
            Box::new(socket)
        })
    }),
    ("a datagram socket that is closed", |event_loop, count| {
        let socket =
            UdpSocket::bind(event_loop, "127.0.0.1:0").unwrap().serve(CountsItsClose(count)).unwrap();
        Box::new(move |_, _| {
            drop(socket);
            Box::new(())
        })
    }),
    ("a connection that reads again", |event_loop, count| {
        let handles = Rc::new(RefCell::new(None));
        let kept = Rc::clone(&handles);
        let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().serve_fn(move |conn, input| {
            if input.take_all() == b"pause" {
                conn.pause_reading();
                *kept.borrow_mut() = Some(conn.handle());
                conn.send("paused").unwrap();
            } else {
                count.add();
            }
        });
        let server = server.unwrap();
        let mut client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        client.write_all(b"pause").unwrap();
        while handles.borrow().is_none() {
            wait_readable(event_loop);
            turn(event_loop);
        }
        client.read_exact(&mut [0; 6]).unwrap();
        client.write_all(b"x").unwrap();
        // The kernel reports the readiness while there is no interest in it.
        wait_readable(event_loop);
        turn(event_loop);
        Box::new(move |_, _| {
            handles.borrow().as_ref().unwrap().resume_reading();
            Box::new((server, client))
        })
    }),
    ("a server that is stopped", |event_loop, count| {
        let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().serve_fn(|_, _| ()).unwrap();
        Box::new(move |_, _| {
            server.stop(Duration::ZERO, move |_: &EventLoop, _: StopReport| count.add());
            Box::new(())
        })
    }),
    ("messages in a shared ring before it is watched", |_, _| {
        Box::new(|event_loop, count| {
            let (mut theirs, descriptors) = SharedRing::create(4096).unwrap();
            let ours = SharedRing::from_descriptors(descriptors, 4096).unwrap();
            theirs.send(b"x").unwrap();
            Box::new((ours.watch(event_loop, move |_, _| count.add()).unwrap(), theirs))
        })
    }),
];

fn reading(count: Count) -> impl FnMut(&ChannelEvent<'_, UnixStream>) {
    move |event| {
        event.source().read_exact(&mut [0]).unwrap();
        count.add();
    }
}

struct CountsItsClose(Count);

impl DatagramHandler for CountsItsClose {
    fn on_datagram(&mut self, _: &UdpRef<'_>, _: &[u8], _: std::net::SocketAddr) -> io::Result<()> {
        Ok(())
    }

    fn on_close(&mut self, _: &UdpRef<'_>, _: &CloseReason) {
        self.0.add();
    }
}

#[test]
fn work_requested_before_the_first_turn_is_an_edge() {
    for (kind, prepare) in KINDS {
        for run in [ONE_TURN, ALL_TURNS] {
            with_loop(move |event_loop| {
                let (outer, count) = (Outer::new(event_loop), Count::default());
                let kept = prepare(event_loop, count.clone())(event_loop, count.clone());
                outer.drive(run, event_loop, || count.get() == 1);
                drop(kept);
                outer.settle(run, event_loop, kind);
            });
        }
    }
}

#[test]
fn work_requested_between_turns_is_a_new_edge() {
    for (kind, prepare) in KINDS {
        for run in [ONE_TURN, ALL_TURNS] {
            with_loop(move |event_loop| {
                let (outer, mut kept) = (Outer::new(event_loop), Vec::new());
                for _ in 0..3 {
                    let count = Count::default();
                    let request = prepare(event_loop, count.clone());
                    outer.settle(run, event_loop, "the preparation");
                    kept.push(request(event_loop, count.clone()));
                    outer.drive(run, event_loop, || count.get() == 1);
                    outer.settle(run, event_loop, kind);
                }
            });
        }
    }
}

#[test]
fn a_request_to_quit_is_a_new_edge_until_it_is_honoured() {
    with_loop(|event_loop| {
        let outer = Outer::new(event_loop);
        outer.settle(ONE_TURN, event_loop, "the beginning");
        event_loop.quit();
        for run in [ONE_TURN, ALL_TURNS, ONE_TURN] {
            assert!(outer.has_edge());
            run(event_loop);
        }
        event_loop.run().unwrap();
        assert!(!is_readable(event_loop));
    });
}

#[test]
fn a_step_of_a_virtual_clock_is_an_edge() {
    with_clock(|event_loop, clock| {
        let (outer, count) = (Outer::new(event_loop), Count::default());
        let second = Duration::from_secs(1);
        for round in 0..3 {
            event_loop.run_after(second, counting(count.clone()));
            outer.settle(ONE_TURN, event_loop, "a timer that is ahead");
            clock.advance(second);
            outer.drive(ONE_TURN, event_loop, || count.get() == 2 * round + 1);
            event_loop.run_after(Duration::ZERO, counting(count.clone()));
            outer.drive(ONE_TURN, event_loop, || count.get() == 2 * round + 2);
            outer.settle(ONE_TURN, event_loop, "a timer that has fired");
        }
    });
}

/// Descriptors that are ready at the same time, more than one turn processes.
fn ready_channels(event_loop: &EventLoop, channels: usize, count: &Count) -> Vec<impl Sized> {
    let make = |_| {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"x").unwrap();
        (Channel::new(event_loop, ours, Interest::READABLE, reading(count.clone())).unwrap(), theirs)
    };
    (0..channels).map(make).collect()
}

#[test]
fn descriptors_beyond_the_events_of_a_turn_are_a_new_edge() {
    for events in [1, 2, 4, 7] {
        for channels in [1, 4, 7, 8, 30] {
            for run in [ONE_TURN, ALL_TURNS] {
                with_watchdog(LIMIT, move || {
                    let event_loop = EventLoop::builder().events_per_turn(events).build().unwrap();
                    let (outer, count) = (Outer::new(&event_loop), Count::default());
                    let _kept = ready_channels(&event_loop, channels, &count);
                    outer.drive(run, &event_loop, || count.get() == channels);
                    outer.settle(run, &event_loop, "the last of the channels");
                });
            }
        }
    }
}

/// With a capacity of one event a turn, the loop's own wake-up would take a turn from the other
/// descriptors.
#[test]
fn tasks_and_timers_among_ready_descriptors_are_edges() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::builder().events_per_turn(1).build().unwrap();
        let (outer, count) = (Outer::new(&event_loop), Count::default());
        let _kept = ready_channels(&event_loop, 20, &count);
        let handle = event_loop.handle();
        for round in 0..20 {
            match round % 3 {
                0 => event_loop.queue_in_loop(counting(count.clone())),
                1 => on_another_thread(|| handle.queue_in_loop(counting(count.clone())).unwrap()),
                _ => _ = event_loop.run_after(Duration::from_micros(300), counting(count.clone())),
            }
            outer.await_edge();
            turn(&event_loop);
        }
        outer.drive(ONE_TURN, &event_loop, || count.get() == 40);
        outer.settle(ONE_TURN, &event_loop, "all of them");
    });
}

#[test]
fn run_ready_makes_turns_until_nothing_is_left() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::builder().events_per_turn(2).build().unwrap();
        event_loop.run_ready().unwrap();
        assert_eq!(event_loop.iteration(), 1, "a turn that finds nothing");
        let count = Count::default();
        let _kept = ready_channels(&event_loop, 15, &count);
        let last = count.clone();
        event_loop.queue_in_loop(|event_loop| event_loop.queue_in_loop(counting(last)));
        event_loop.run_after(Duration::ZERO, counting(count.clone()));
        event_loop.run_after(Duration::from_secs(3600), |_| ());
        event_loop.run_ready().unwrap();
        assert_eq!(count.get(), 17);
        assert!(!is_readable(&event_loop));
    });
}

#[test]
fn run_ready_returns_from_a_loop_that_always_has_work() {
    fn again(event_loop: &EventLoop, count: Count) {
        count.add();
        event_loop.queue_in_loop(move |event_loop| again(event_loop, count));
    }
    with_loop(|event_loop| {
        let (outer, count) = (Outer::new(event_loop), Count::default());
        again(event_loop, count.clone());
        for _ in 0..3 {
            assert!(outer.has_edge());
            let before = count.get();
            event_loop.run_ready().unwrap();
            assert!(count.get() > before);
        }
    });
}

#[test]
fn run_ready_does_not_consume_a_request_to_quit() {
    with_loop(|event_loop| {
        let count = Count::default();
        event_loop.queue_in_loop(counting(count.clone()));
        event_loop.quit();
        event_loop.run_ready().unwrap();
        assert_eq!((count.get(), event_loop.is_quitting()), (1, true));
        assert!(event_loop.run_ready().is_ok());
        event_loop.run().unwrap();
        assert!(!event_loop.is_quitting());
        event_loop.queue_in_loop(|event_loop| {
            assert_eq!(event_loop.run_ready().unwrap_err().kind(), io::ErrorKind::ResourceBusy);
        });
        event_loop.run_ready().unwrap();
    });
}
