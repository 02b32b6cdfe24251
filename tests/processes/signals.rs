//! Signals as events. Signals belong to a process, so each test runs in its own process.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc;
use std::{fs, io, thread};

use crate::support::alone::{alone, outcome_alone};
use crate::support::net::{open_descriptors, turn_until};
use crate::support::{Count, Recorder, turn, wait_until_asleep};
use reveille::signal::{Signal, Signals};
use reveille::{EventLoop, LoopThread};
use rustix::process::{Resource, Rlimit, getrlimit, kill_process, setrlimit};
use rustix::thread::{Pid, gettid};

fn send_to(process: Pid, signal: Signal) {
    let signal = rustix::process::Signal::from_named_raw(signal.as_raw()).unwrap();
    kill_process(process, signal).unwrap();
}

/// Sends the signal to the process. Linux delivers it to the thread whose id is given, if that
/// thread can handle it, so the signal has been handled when this returns.
fn raise(signal: Signal) {
    send_to(gettid(), signal);
}

fn catching_loop() -> EventLoop {
    EventLoop::new().unwrap()
}

/// Returns a source and a recorder of its signals.
fn recorded(event_loop: &EventLoop, signals: &[Signal]) -> (Signals, Recorder<Signal>) {
    let received = Recorder::new();
    let t = received.clone();
    let source = Signals::new(event_loop, signals.iter().copied(), move |_, signal| t.record(signal));
    (source.unwrap(), received)
}

/// Returns a signal mask from a field of `/proc/OF/status` of a process or thread.
fn mask(of: &str, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{of}/status")).unwrap();
    mask_in(&status, field)
}

fn mask_in(status: &str, field: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("the field");
    u64::from_str_radix(line.trim_start_matches(':').trim(), 16).unwrap()
}

#[test]
fn each_signal_is_reported_with_its_number() {
    alone(|| {
        let event_loop = catching_loop();
        let signals = [
            Signal::INT,
            Signal::TERM,
            Signal::HUP,
            Signal::QUIT,
            Signal::CHLD,
            Signal::USR1,
            Signal::USR2,
            Signal::ALRM,
            Signal::PIPE,
            Signal::CONT,
            Signal::TSTP,
            Signal::TTIN,
            Signal::TTOU,
            Signal::URG,
            Signal::WINCH,
        ];
        let (_source, received) = recorded(&event_loop, &signals);
        for signal in signals {
            raise(signal);
            turn_until(&event_loop, || received.len() > 0);
            assert_eq!(received.take(), [signal]);
        }
        turn(&event_loop);
        assert_eq!(received.take(), []);
    });
}

#[test]
fn a_signal_wakes_its_loop() {
    alone(|| {
        let (signalled, is_signalled) = mpsc::channel();
        let (ready, is_ready) = mpsc::channel();
        let thread = LoopThread::spawn("signals").unwrap();
        thread
            .handle()
            .queue_in_loop(move |event_loop| {
                let received = move |_: &EventLoop, signal| signalled.send(signal).unwrap();
                Signals::new(event_loop, [Signal::USR1], received).unwrap().detach();
                ready.send(gettid()).unwrap();
            })
            .unwrap();
        let sleeper = is_ready.recv().unwrap();
        for _ in 0..3 {
            wait_until_asleep(sleeper);
            raise(Signal::USR1);
            assert_eq!(is_signalled.recv(), Ok(Signal::USR1));
        }
    });
}

#[test]
fn every_source_on_every_loop_receives_the_signal() {
    alone(|| {
        let event_loop = catching_loop();
        let (first, first_received) = recorded(&event_loop, &[Signal::USR1, Signal::USR2]);
        let (_second, second_received) = recorded(&event_loop, &[Signal::USR1]);
        let (signalled, is_signalled) = mpsc::channel();
        let thread = LoopThread::spawn("third").unwrap();
        let third = thread.handle().call(move |event_loop| {
            let received = move |_: &EventLoop, signal| signalled.send(signal).unwrap();
            Signals::new(event_loop, [Signal::USR1], received).map(Signals::detach)
        });
        third.unwrap().unwrap();
        raise(Signal::USR1);
        assert_eq!(is_signalled.recv(), Ok(Signal::USR1));
        turn_until(&event_loop, || first_received.len() + second_received.len() == 2);
        assert_eq!((first_received.take(), second_received.take()), (vec![Signal::USR1], vec![Signal::USR1]));
        // The other sources still receive signals after one has been dropped.
        drop(first);
        raise(Signal::USR1);
        assert_eq!(is_signalled.recv(), Ok(Signal::USR1));
        turn_until(&event_loop, || second_received.len() == 1);
        assert_eq!(first_received.take(), []);
    });
}

#[test]
fn threads_started_earlier_do_not_affect_delivery() {
    alone(|| {
        let (id_sender, id_receiver) = mpsc::channel();
        let (_keep, end) = mpsc::channel::<()>();
        thread::spawn(move || {
            id_sender.send(gettid()).unwrap();
            let _ = end.recv();
        });
        let earlier = id_receiver.recv().unwrap();
        let event_loop = catching_loop();
        let (_source, received) = recorded(&event_loop, &[Signal::TERM]);
        // Not all threads are checked: the C library blocks the signals of a starting thread for a
        // moment.
        for thread in [earlier, gettid()] {
            let id = thread.as_raw_nonzero();
            assert_eq!(mask(&format!("self/task/{id}"), "SigBlk"), 0, "the mask of {id}");
        }
        send_to(earlier, Signal::TERM);
        turn_until(&event_loop, || received.len() > 0);
        assert_eq!(received.take(), [Signal::TERM]);
    });
}

#[test]
fn started_programs_inherit_no_mask_handler_or_descriptor() {
    fn descriptors() -> BTreeSet<String> {
        let output = Command::new("ls").arg("/proc/self/fd").output().unwrap();
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }
    fn status() -> String {
        String::from_utf8(Command::new("cat").arg("/proc/self/status").output().unwrap().stdout).unwrap()
    }
    alone(|| {
        let (original, before) = (descriptors(), status());
        let event_loop = catching_loop();
        let _source = recorded(&event_loop, &[Signal::TERM, Signal::HUP]);
        let after = status();
        for field in ["SigBlk", "SigCgt"] {
            assert_eq!(mask_in(&after, field), mask_in(&before, field), "{field}");
        }
        // The tests may run where SIGHUP is ignored (nohup(1)). An exec resets a caught signal to
        // its default action and keeps an ignored signal ignored.
        let caught =
            [Signal::TERM, Signal::HUP].iter().fold(0, |caught, signal| caught | 1 << (signal.as_raw() - 1));
        assert_eq!(mask_in(&after, "SigIgn"), mask_in(&before, "SigIgn") & !caught, "SigIgn");
        assert_eq!(descriptors(), original);
        let killed = Command::new("sh").args(["-c", "kill -TERM $$; exit 3"]).status().unwrap();
        assert_eq!(killed.signal(), Some(Signal::TERM.as_raw()));
    });
}

#[test]
fn dropping_the_last_source_restores_the_default_action() {
    let outcome = outcome_alone(|| {
        let event_loop = catching_loop();
        let (first, _) = recorded(&event_loop, &[Signal::TERM]);
        let (second, received) = recorded(&event_loop, &[Signal::TERM, Signal::INT]);
        drop(first);
        raise(Signal::TERM);
        turn_until(&event_loop, || received.len() > 0);
        drop(second);
        // Once more, because the first source initialises internal state and the later ones do not.
        let (third, received) = recorded(&event_loop, &[Signal::TERM]);
        raise(Signal::TERM);
        turn_until(&event_loop, || received.len() > 0);
        println!("received twice");
        drop(third);
        raise(Signal::TERM);
        turn_until(&event_loop, || false);
    });
    assert_eq!(outcome.status.signal(), Some(Signal::TERM.as_raw()), "{outcome:?}");
    assert!(String::from_utf8_lossy(&outcome.stdout).contains("received twice"), "{outcome:?}");
}

#[test]
fn dropping_the_loop_restores_the_default_action() {
    let outcome = outcome_alone(|| {
        let event_loop = catching_loop();
        let (source, _) = recorded(&event_loop, &[Signal::USR1]);
        source.detach();
        drop(event_loop);
        raise(Signal::USR1);
        turn_until(&catching_loop(), || false);
    });
    assert_eq!(outcome.status.signal(), Some(Signal::USR1.as_raw()), "{outcome:?}");
}

#[test]
fn an_ignored_signal_is_ignored_again_afterwards() {
    alone(|| {
        // Rust programs ignore SIGPIPE from their start.
        let ignored = 1 << (Signal::PIPE.as_raw() - 1);
        assert_ne!(mask("self", "SigIgn") & ignored, 0);
        let event_loop = catching_loop();
        let (source, received) = recorded(&event_loop, &[Signal::PIPE]);
        raise(Signal::PIPE);
        turn_until(&event_loop, || received.len() > 0);
        drop(source);
        (0..100).for_each(|_| raise(Signal::PIPE));
    });
}

/// Rust programs ignore SIGPIPE. If the default action were restored, the next peer that closes
/// would kill the process.
#[test]
fn an_ignored_signal_is_restored_without_free_descriptors() {
    alone(|| {
        let event_loop = catching_loop();
        // Finds the lowest descriptor limit at which a source can be created.
        let original = getrlimit(Resource::Nofile);
        let source = (0..100).find_map(|limit| {
            setrlimit(Resource::Nofile, Rlimit { current: Some(limit), maximum: original.maximum }).unwrap();
            Signals::new(&event_loop, [Signal::PIPE], |_, _| ()).ok()
        });
        setrlimit(Resource::Nofile, original).unwrap();
        drop(source.expect("a source"));
        raise(Signal::PIPE);
    });
}

#[test]
fn an_earlier_handler_is_called_during_and_after_the_source() {
    alone(|| {
        let called = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(Signal::USR2.as_raw(), Arc::clone(&called)).unwrap();
        let event_loop = catching_loop();
        let (source, received) = recorded(&event_loop, &[Signal::USR2]);
        raise(Signal::USR2);
        turn_until(&event_loop, || received.len() > 0);
        assert!(called.swap(false, SeqCst));
        drop(source);
        raise(Signal::USR2);
        turn_until(&event_loop, || called.load(SeqCst));
        assert_eq!(received.len(), 1);
    });
}

#[test]
fn pending_signals_are_reported_once_each_in_listed_order() {
    alone(|| {
        let event_loop = catching_loop();
        let (_source, received) = recorded(&event_loop, &[Signal::USR2, Signal::USR1, Signal::USR2]);
        for _ in 0..3 {
            raise(Signal::USR1);
            raise(Signal::USR2);
        }
        turn_until(&event_loop, || received.len() == 2);
        assert_eq!(received.take(), [Signal::USR2, Signal::USR1]);
        turn(&event_loop);
        assert_eq!(received.take(), []);
    });
}

#[test]
fn a_full_signal_pipe_loses_no_signal() {
    alone(|| {
        let event_loop = catching_loop();
        let (_source, received) = recorded(&event_loop, &[Signal::USR1, Signal::USR2]);
        (0..70_000).for_each(|_| raise(Signal::USR1));
        // The pipe is full when this signal arrives.
        raise(Signal::USR2);
        turn_until(&event_loop, || received.take().contains(&Signal::USR2));
        // Everything written to the pipe is read, and a new signal is an event again.
        (0..300).for_each(|_| turn(&event_loop));
        assert_eq!(received.take(), []);
        raise(Signal::USR1);
        event_loop.run_once(None).unwrap();
        turn_until(&event_loop, || received.len() > 0);
    });
}

#[test]
fn a_source_dropped_in_its_callback_receives_no_more_signals() {
    alone(|| {
        let event_loop = catching_loop();
        let (own, received) = (Rc::new(RefCell::new(None)), Recorder::new());
        let (o, t) = (Rc::clone(&own), received.clone());
        let both = [Signal::USR1, Signal::USR2];
        let source = Signals::new(&event_loop, both, move |_, signal| {
            t.record(signal);
            drop(o.borrow_mut().take());
        });
        *own.borrow_mut() = Some(source.unwrap());
        let (_other, other_received) = recorded(&event_loop, &both);
        raise(Signal::USR1);
        raise(Signal::USR2);
        turn_until(&event_loop, || other_received.len() == 2);
        turn(&event_loop);
        assert_eq!(received.take(), [Signal::USR1]);
    });
}

#[test]
fn a_panic_in_the_callback_ends_the_source_and_is_counted() {
    alone(|| {
        let event_loop = catching_loop();
        let source =
            Signals::new(&event_loop, [Signal::USR1], |_, signal| panic!("{signal}, intended by the test"))
                .unwrap();
        let (_other, received) = recorded(&event_loop, &[Signal::USR1]);
        assert!(source.is_open());
        for panics in [1, 1] {
            raise(Signal::USR1);
            turn_until(&event_loop, || received.len() > 0);
            turn(&event_loop);
            assert_eq!(received.take(), [Signal::USR1]);
            assert!(!source.is_open());
            assert_eq!(event_loop.handle().counters().panics, panics);
        }
    });
}

#[test]
fn invalid_signals_are_refused_without_side_effects() {
    alone(|| {
        let event_loop = catching_loop();
        let (before, caught) = (open_descriptors(), mask("self", "SigCgt"));
        let refused: [(&[Signal], &str); 3] = [
            (&[], "at least one signal"),
            (&[Signal::KILL], "SIGKILL cannot be caught"),
            (&[Signal::STOP], "SIGSTOP cannot be caught"),
        ];
        for (signals, message) in refused {
            let error = Signals::new(&event_loop, signals.iter().copied(), |_, _| ()).expect_err("a refusal");
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert!(error.to_string().contains(message), "{error}");
        }
        assert_eq!((open_descriptors(), mask("self", "SigCgt")), (before, caught));
    });
}

#[test]
fn sources_leak_no_descriptor_and_no_callback() {
    alone(|| {
        let dropped = Count::default();
        let before = open_descriptors();
        let event_loop = catching_loop();
        let with_loop = open_descriptors();
        for _ in 0..50 {
            let token = dropped.drop_token();
            let both = [Signal::USR1, Signal::USR2];
            let source = Signals::new(&event_loop, both, move |_, _| token.keep()).unwrap();
            assert_eq!(open_descriptors(), with_loop + 3);
            source.close();
            assert_eq!(open_descriptors(), with_loop);
        }
        let token = dropped.drop_token();
        let left = Signals::new(&event_loop, [Signal::USR1], move |_, _| token.keep()).unwrap();
        left.detach();
        assert_eq!(dropped.get(), 50);
        drop(event_loop);
        assert_eq!((dropped.get(), open_descriptors()), (51, before));
    });
}
