//! Futures that are bound to a connection.

use std::cell::Cell;
use std::io;
use std::rc::Rc;

use crate::support::futures::{Gate, block_on};
use crate::support::{Count, Recorder, panic_of, turn, with_catching_loop, with_loop};
use reveille::net::CloseReason;
use reveille::task::{JoinError, JoinHandle};
use reveille::testing::Peer;
use reveille::{Buffer, ConnectionHandler, EventLoop, TcpConnection, task};

type Act = Box<dyn FnMut(&mut Session, &TcpConnection, u8) -> io::Result<()>>;

/// Calls a closure for each byte of input, and records how the connection ends.
struct Session {
    act: Option<Act>,
    outputs: Rc<Cell<u32>>,
    ends: Recorder<String>,
}

impl ConnectionHandler for Session {
    fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
        let mut act = self.act.take().expect("callbacks do not nest");
        let bytes = input.take_all();
        let acted = bytes.iter().try_for_each(|&byte| act(self, conn, byte));
        self.act = Some(act);
        acted
    }

    fn on_close(&mut self, _: &TcpConnection, reason: &CloseReason) {
        self.ends.record(reason.to_string());
    }
}

struct Tested<'a> {
    peer: Peer<'a>,
    outputs: Rc<Cell<u32>>,
    ends: Recorder<String>,
}

fn connect<'a>(
    event_loop: &'a EventLoop,
    act: impl FnMut(&mut Session, &TcpConnection, u8) -> io::Result<()> + 'static,
) -> Tested<'a> {
    let (outputs, ends) = (Rc::default(), Recorder::new());
    let (session_outputs, session_ends) = (Rc::clone(&outputs), ends.clone());
    let peer = Peer::connect(event_loop, |_| Session {
        act: Some(Box::new(act)),
        outputs: session_outputs,
        ends: session_ends,
    });
    Tested { peer: peer.unwrap(), outputs, ends }
}

/// Stores the handles of the futures that it spawns.
type Spawned = Rc<Cell<Option<JoinHandle<()>>>>;

/// Panics, with the type of a future that returns.
fn fail(message: &str) {
    panic!("{message}");
}

fn turns(event_loop: &EventLoop) {
    (0..5).for_each(|_| turn(event_loop));
}

#[test]
fn replies_of_futures_leave_in_the_order_of_their_requests() {
    with_loop(|event_loop| {
        let gates = [Gate::default(), Gate::default()];
        let gated = gates.clone();
        let tested = connect(event_loop, move |_, conn, byte| {
            let (slot, gate) = (conn.reserve_reply()?, gated.get(usize::from(byte - b'0')).cloned());
            conn.spawn(async move {
                if let Some(gate) = gate {
                    gate.wait().await;
                }
                slot.fill([byte])
            });
            Ok(())
        });
        tested.peer.send("012").unwrap();
        turns(event_loop);
        gates[1].open();
        turns(event_loop);
        assert_eq!(tested.peer.received().unwrap(), b"");
        gates[0].open();
        turns(event_loop);
        assert_eq!(tested.peer.received().unwrap(), b"012");
    });
}

#[test]
fn the_output_of_a_future_is_given_to_the_handler() {
    with_loop(|event_loop| {
        let tested = connect(event_loop, |_, conn, byte| {
            conn.spawn_then(
                async move {
                    task::yield_now().await;
                    u32::from(byte)
                },
                |session: &mut Session, conn, output| {
                    session.outputs.set(session.outputs.get() + output);
                    conn.send([output as u8])
                },
            );
            Ok(())
        });
        tested.peer.send([1, 2, 3]).unwrap();
        turns(event_loop);
        assert_eq!(tested.outputs.get(), 6);
        assert_eq!(tested.peer.received().unwrap(), [1, 2, 3]);
    });
}

#[test]
fn the_close_of_the_connection_aborts_its_futures() {
    with_loop(|event_loop| {
        let (spawned, drops) = (Spawned::default(), Count::default());
        let (keeping, counting) = (Rc::clone(&spawned), drops.clone());
        let tested = connect(event_loop, move |_, conn, _| {
            let token = counting.drop_token();
            let forever = async move {
                token.keep();
                std::future::pending::<()>().await;
            };
            keeping.set(Some(conn.spawn_then(forever, |_: &mut Session, _, ()| fail("it has ended"))));
            Ok(())
        });
        tested.peer.send("x").unwrap();
        turns(event_loop);
        assert_eq!((drops.get(), tested.ends.len()), (0, 0));
        tested.peer.reset().unwrap();
        turns(event_loop);
        assert_eq!((drops.get(), tested.ends.len()), (1, 1));
        assert!(matches!(block_on(spawned.take().unwrap()), Err(JoinError::Aborted)));
        assert_eq!(event_loop.spawned_futures(), 0);
    });
}

#[test]
fn a_future_that_closes_its_connection_is_not_polled_again() {
    with_loop(|event_loop| {
        let spawned = Spawned::default();
        let keeping = Rc::clone(&spawned);
        let tested = connect(event_loop, move |_, conn, _| {
            let handle = conn.handle();
            keeping.set(Some(conn.spawn(async move {
                handle.close();
                task::yield_now().await;
                fail("the future is polled after the close");
            })));
            Ok(())
        });
        tested.peer.send("x").unwrap();
        turns(event_loop);
        assert_eq!(tested.ends.len(), 1);
        assert!(matches!(block_on(spawned.take().unwrap()), Err(JoinError::Aborted)));
    });
}

#[test]
fn a_future_of_a_closed_connection_is_aborted_at_once() {
    with_loop(|event_loop| {
        let spawned = Spawned::default();
        let keeping = Rc::clone(&spawned);
        let tested = connect(event_loop, move |_, conn, _| {
            conn.close();
            keeping.set(Some(conn.spawn(async { fail("the future is polled after the close") })));
            Ok(())
        });
        tested.peer.send("x").unwrap();
        turns(event_loop);
        assert!(matches!(block_on(spawned.take().unwrap()), Err(JoinError::Aborted)));
    });
}

#[test]
fn an_error_of_a_future_ends_the_connection_after_its_output() {
    with_loop(|event_loop| {
        let tested = connect(event_loop, |_, conn, byte| {
            conn.send("before")?;
            match byte {
                b's' => conn.spawn(async {
                    task::yield_now().await;
                    Err::<(), _>(io::Error::other("the future fails"))
                }),
                _ => conn.spawn_then(
                    async { Err(io::Error::other("the future fails")) },
                    |_: &mut Session, _, end| end as io::Result<()>,
                ),
            };
            Ok(())
        });
        let other = connect(event_loop, |_, conn, _| {
            conn.spawn_then(async {}, |_: &mut Session, conn, ()| {
                conn.send("before")?;
                Err::<(), _>(io::Error::other("the handler fails"))
            });
            Ok(())
        });
        tested.peer.send("s").unwrap();
        other.peer.send("x").unwrap();
        turns(event_loop);
        for (tested, error) in [(&tested, "the future fails"), (&other, "the handler fails")] {
            assert_eq!(tested.peer.received().unwrap(), b"before");
            tested.peer.close().unwrap();
            turns(event_loop);
            let ends = tested.ends.take();
            assert!(ends.len() == 1 && ends[0].contains(error), "{ends:?}");
        }
    });
}

#[test]
fn a_panic_of_a_future_closes_its_connection() {
    with_catching_loop(|event_loop| {
        let spawned = Spawned::default();
        let keeping = Rc::clone(&spawned);
        let tested = connect(event_loop, move |_, conn, _| {
            keeping.set(Some(conn.spawn(async {
                task::yield_now().await;
                fail("a future panics");
            })));
            Ok(())
        });
        tested.peer.send("x").unwrap();
        turns(event_loop);
        assert!(matches!(block_on(spawned.take().unwrap()), Err(JoinError::Panicked(_))));
        let ends = tested.ends.take();
        assert_eq!(ends, [CloseReason::Panicked.to_string()]);
    });
}

#[test]
fn an_abort_leaves_the_connection_open() {
    with_loop(|event_loop| {
        let tested = connect(event_loop, |_, conn, _| {
            conn.spawn(std::future::pending::<()>()).abort();
            conn.send("open")?;
            Ok(())
        });
        tested.peer.send("x").unwrap();
        turns(event_loop);
        assert_eq!((tested.peer.received().unwrap(), tested.ends.len()), (b"open".to_vec(), 0));
    });
}

#[test]
fn a_half_close_waits_for_the_futures() {
    with_loop(|event_loop| {
        let gate = Gate::default();
        let gated = gate.clone();
        let tested = connect(event_loop, move |_, conn, _| {
            let (slot, gate) = (conn.reserve_reply()?, gated.clone());
            conn.spawn(async move {
                gate.wait().await;
                slot.fill("late")
            });
            Ok(())
        });
        tested.peer.send("x").unwrap();
        tested.peer.shutdown().unwrap();
        turns(event_loop);
        assert_eq!(tested.ends.len(), 0);
        gate.open();
        turns(event_loop);
        assert_eq!(tested.peer.received().unwrap(), b"late");
        assert!(tested.peer.is_closed().unwrap());
    });
}

#[test]
fn a_handler_of_another_type_panics_at_the_spawn() {
    with_loop(|event_loop| {
        let message = Recorder::new();
        let recording = message.clone();
        let tested = connect(event_loop, move |_, conn, _| {
            recording.record(panic_of(|| conn.spawn_then(async {}, |_: &mut String, _, ()| ())));
            Ok(())
        });
        tested.peer.send("x").unwrap();
        turns(event_loop);
        assert!(message.take()[0].contains("is not a alloc::string::String"));
        assert_eq!(event_loop.spawned_futures(), 0);
    });
}

#[test]
fn a_close_drops_all_futures_and_their_reserved_places() {
    with_loop(|event_loop| {
        let drops = Count::default();
        let counting = drops.clone();
        let tested = connect(event_loop, move |_, conn, _| {
            let (token, slot) = (counting.drop_token(), conn.reserve_reply()?);
            conn.spawn(async move {
                token.keep();
                std::future::pending::<()>().await;
                slot.fill("never")
            });
            Ok(())
        });
        tested.peer.send("xxx").unwrap();
        turns(event_loop);
        assert_eq!(event_loop.spawned_futures(), 3);
        tested.peer.connection().close();
        turns(event_loop);
        assert_eq!((drops.get(), event_loop.spawned_futures()), (3, 0));
    });
}
