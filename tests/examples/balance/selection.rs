//! The selection of back ends in the example balance, and its configuration.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::backends::{BackendId, Backends, Change, Policy, Target};
use super::config::Config;
use super::proxy_header::ProxyVersion;
use crate::support::random::Random;

fn address(number: usize) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9000 + u16::try_from(number).unwrap()))
}

fn targets(numbers: &[usize]) -> Vec<Target> {
    numbers.iter().map(|&number| Target { address: address(number), limit: None }).collect()
}

fn with(policy: Policy, numbers: &[usize]) -> Backends {
    let mut backends = Backends::default();
    backends.configure(policy, &targets(numbers));
    backends
}

fn select(backends: &mut Backends, tried: &[BackendId]) -> Option<(BackendId, usize)> {
    let (id, address) = backends.select(tried)?;
    Some((id, usize::from(address.port()) - 9000))
}

/// Makes this number of selections, which are not released.
fn selected(backends: &mut Backends, count: usize) -> Vec<usize> {
    (0..count).map(|_| select(backends, &[]).expect("a back end").1).collect()
}

#[test]
fn round_robin_selects_each_in_turn_and_skips_what_is_down() {
    let mut backends = with(Policy::RoundRobin, &[1, 2, 3]);
    assert_eq!(selected(&mut backends, 5), [1, 2, 3, 1, 2]);
    let (id, _) = select(&mut backends, &[]).unwrap();
    assert!(backends.set_up(id, false));
    assert!(!backends.set_up(id, false), "it was down before");
    assert_eq!(selected(&mut backends, 4), [1, 2, 1, 2]);
    assert!(backends.set_up(id, true));
    assert_eq!(selected(&mut backends, 3), [3, 1, 2]);
}

#[test]
fn least_connections_selects_in_turn_among_equals() {
    let mut backends = with(Policy::LeastConnections, &[1, 2, 3]);
    let (first, _) = select(&mut backends, &[]).unwrap();
    assert_eq!(selected(&mut backends, 5), [2, 3, 1, 2, 3]);
    backends.release(first);
    backends.release(first);
    assert_eq!(selected(&mut backends, 5), [1, 1, 2, 3, 1]);
}

#[test]
fn what_was_tried_or_is_full_is_not_selected() {
    let mut backends = Backends::default();
    let mut limited = targets(&[1, 2]);
    limited[0].limit = Some(1);
    backends.configure(Policy::RoundRobin, &limited);
    let (first, _) = select(&mut backends, &[]).unwrap();
    assert_eq!(selected(&mut backends, 2), [2, 2], "the first is full");
    backends.release(first);
    let (first, number) = select(&mut backends, &[]).unwrap();
    assert_eq!(number, 1);
    backends.release(first);
    let (second, number) = select(&mut backends, &[first]).unwrap();
    assert_eq!(number, 2);
    assert_eq!(select(&mut backends, &[first, second]), None);
}

#[test]
fn a_removed_back_end_drains_and_may_return() {
    let mut backends = with(Policy::RoundRobin, &[1, 2, 3]);
    let (first, _) = select(&mut backends, &[]).unwrap();
    let (second, _) = select(&mut backends, &[]).unwrap();
    let change = backends.configure(Policy::RoundRobin, &targets(&[4]));
    assert_eq!(change, Change { added: 1, kept: 0, draining: 2, removed: 1 });
    assert_eq!(selected(&mut backends, 2), [4, 4]);
    assert!(!backends.is_configured(first));
    assert_eq!(backends.release(first), Some(address(1)));
    assert_eq!(backends.release(first), None, "it is gone");
    // The second was found down while it drained. It was not probed, so it is up when it returns.
    backends.set_up(second, false);
    let change = backends.configure(Policy::RoundRobin, &targets(&[2, 1]));
    assert_eq!(change, Change { added: 1, kept: 1, draining: 1, removed: 0 });
    assert!(backends.is_configured(second));
    assert_eq!(selected(&mut backends, 2), [2, 1]);
    assert_eq!(backends.release(second), None, "it does not drain any more");
}

#[test]
fn a_back_end_that_is_kept_keeps_its_health() {
    let mut backends = with(Policy::RoundRobin, &[1, 2]);
    let (first, _) = select(&mut backends, &[]).unwrap();
    backends.set_up(first, false);
    backends.configure(Policy::RoundRobin, &targets(&[1, 2, 3]));
    assert_eq!(selected(&mut backends, 3), [2, 3, 2]);
}

/// Compares random operations with a plain count of the connections of each back end.
#[test]
fn random_operations_keep_the_counts_of_connections() {
    let mut random = Random::new(18);
    let mut backends = with(Policy::LeastConnections, &[0, 1, 2, 3]);
    let mut open: Vec<BackendId> = Vec::new();
    let mut configured = vec![0, 1, 2, 3];
    for _ in 0..4_000 {
        match random.below(10) {
            0..=3 => {
                if let Some((id, number)) = select(&mut backends, &[]) {
                    assert!(configured.contains(&number), "{number} is not configured");
                    open.push(id);
                }
            }
            4..=7 if !open.is_empty() => {
                let id = open.swap_remove(random.below(open.len()));
                backends.release(id);
            }
            8 => {
                let list = backends.list();
                if !list.is_empty() {
                    let id = list[random.below(list.len())].id;
                    backends.set_up(id, random.below(3) > 0);
                }
            }
            _ if random.below(20) == 0 => {
                configured = (0..8).filter(|_| random.below(2) == 0).collect();
                backends.configure(Policy::LeastConnections, &targets(&configured));
            }
            _ => {}
        }
        let mut counts: HashMap<BackendId, usize> = HashMap::new();
        open.iter().for_each(|id| *counts.entry(*id).or_default() += 1);
        for backend in backends.list() {
            assert_eq!(backend.connections, counts.remove(&backend.id).unwrap_or(0));
            assert!(!backend.is_draining || backend.connections > 0, "a drained back end remains");
        }
        assert!(counts.is_empty(), "a back end with connections was forgotten");
    }
}

#[test]
fn a_file_is_parsed() {
    let text = "# comment\npolicy least-connections\nsend-proxy v2 # header\n\nbackend 127.0.0.1:9001\n\
                backend [::1]:9002 limit 7\n";
    let config = Config::parse(text).unwrap();
    assert_eq!(config.policy, Policy::LeastConnections);
    assert_eq!(config.send_proxy, Some(ProxyVersion::V2));
    let second = Target { address: "[::1]:9002".parse().unwrap(), limit: Some(7) };
    assert_eq!(config.targets, [Target { address: address(1), limit: None }, second]);
}

#[test]
fn a_wrong_file_is_reported_with_its_line() {
    assert_eq!(Config::parse("# nothing\n").unwrap_err(), "there is no back end");
    for (text, line) in [
        ("policy random", 1),
        ("send-proxy v3", 1),
        ("backend 127.0.0.1:1\nbackend 127.0.0.1:1", 2),
        ("backend example.org:80", 1),
        ("backend 127.0.0.1:1 limit 0", 1),
        ("backend 127.0.0.1:1 limit", 1),
        ("\nbackends 127.0.0.1:1", 2),
        ("policy", 1),
    ] {
        let error = Config::parse(text).unwrap_err();
        assert!(error.starts_with(&format!("line {line}: ")), "{error}");
    }
}
