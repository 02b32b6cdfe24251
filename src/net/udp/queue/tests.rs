use super::*;
use std::io::ErrorKind;

const ROOMY: Limits = Limits { datagrams: 100, bytes: 1000 };

fn datagram(text: &str) -> Datagram {
    Datagram { to: None, source: None, bytes: text.as_bytes().to_vec() }
}

fn queue_of(texts: &[&str]) -> Queue {
    let mut queue = Queue::new(ROOMY);
    texts.iter().for_each(|text| queue.push(datagram(text)));
    queue
}

fn text(datagram: &Datagram) -> String {
    String::from_utf8(datagram.bytes.clone()).unwrap()
}

/// A kernel that accepts at most `per_call` datagrams per call, and fails for one of them.
struct Kernel {
    per_call: usize,
    calls_left: usize,
    refuses: &'static str,
    taken: Vec<String>,
}

impl Kernel {
    fn send(&mut self, batch: &[Datagram]) -> io::Result<usize> {
        assert!(!batch.is_empty(), "nothing was to be sent");
        if self.calls_left == 0 {
            return Ok(0);
        }
        self.calls_left -= 1;
        let texts = batch.iter().map(text).take(self.per_call);
        let good: Vec<_> = texts.take_while(|text| text != self.refuses).collect();
        if good.is_empty() {
            return Err(ErrorKind::NetworkUnreachable.into());
        }
        let n = good.len();
        self.taken.extend(good);
        Ok(n)
    }
}

fn kernel(per_call: usize, calls: usize, refuses: &'static str) -> Kernel {
    Kernel { per_call, calls_left: calls, refuses, taken: Vec::new() }
}

#[test]
fn datagrams_are_sent_whole_and_in_order_for_any_batch_size() {
    for per_call in 1..4 {
        let mut queue = queue_of(&["a", "bb", "", "dddd", "e"]);
        let mut kernel = kernel(per_call, 100, "none");
        assert!(queue.flush(100, |batch| kernel.send(batch), |_, error| panic!("{error}")));
        assert_eq!(kernel.taken, ["a", "bb", "", "dddd", "e"]);
        assert!(queue.is_empty() && queue.bytes == 0);
    }
}

#[test]
fn datagrams_the_kernel_does_not_accept_stay_queued_in_order() {
    let mut queue = queue_of(&["a", "bb", "ccc"]);
    let mut full = kernel(2, 1, "none");
    assert!(!queue.flush(100, |batch| full.send(batch), |_, error| panic!("{error}")));
    assert_eq!((full.taken, queue.len(), queue.bytes), (vec!["a".to_owned(), "bb".to_owned()], 1, 3));
    queue.push(datagram("d"));
    let mut again = kernel(2, 9, "none");
    assert!(queue.flush(100, |batch| again.send(batch), |_, error| panic!("{error}")));
    assert_eq!(again.taken, ["ccc", "d"]);
}

#[test]
fn a_refused_datagram_does_not_block_the_others() {
    for refuses in ["a", "b", "c"] {
        let mut queue = queue_of(&["a", "b", "c"]);
        let mut kernel = kernel(9, 9, refuses);
        let mut lost = Vec::new();
        let refused = |datagram: Datagram, error: io::Error| lost.push((text(&datagram), error.kind()));
        assert!(queue.flush(100, |batch| kernel.send(batch), refused));
        assert_eq!(lost, [(refuses.to_owned(), ErrorKind::NetworkUnreachable)]);
        let others: Vec<_> = ["a", "b", "c"].into_iter().filter(|text| *text != refuses).collect();
        assert_eq!(kernel.taken, others);
    }
}

#[test]
fn a_flush_sends_at_most_max_datagrams() {
    let mut queue = queue_of(&["a", "b", "c", "d"]);
    let mut kernel = kernel(9, 9, "none");
    assert!(queue.flush(3, |batch| kernel.send(batch), |_, error| panic!("{error}")));
    assert_eq!((kernel.taken.len(), queue.len()), (3, 1));
}

#[test]
fn the_queue_is_bounded_by_number_and_by_bytes() {
    let mut queue = Queue::new(Limits { datagrams: 2, bytes: 10 });
    assert!(queue.fits(10) && !queue.fits(11));
    queue.push(datagram("seven b"));
    assert!(queue.fits(3) && !queue.fits(4));
    queue.push(datagram(""));
    assert!(!queue.fits(0));
    queue.pop();
    assert!(queue.fits(10));
}
