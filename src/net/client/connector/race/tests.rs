use std::net::SocketAddr;

use super::interleave;

/// Addresses by their last number: those of IPv6 are negative.
fn order(numbers: &[i8]) -> Vec<i8> {
    let address = |&n: &i8| match n {
        0.. => SocketAddr::from(([192, 0, 2, n.unsigned_abs()], 80)),
        _ => SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, n.unsigned_abs().into()], 80)),
    };
    let number = |address: SocketAddr| match address {
        SocketAddr::V4(address) => address.ip().octets()[3] as i8,
        SocketAddr::V6(address) => -(address.ip().octets()[15] as i8),
    };
    interleave(numbers.iter().map(address).collect()).into_iter().map(number).collect()
}

#[test]
fn families_alternate_from_the_preferred_one_and_keep_their_order() {
    assert_eq!(order(&[-1, -2, -3, 1, 2, 3]), [-1, 1, -2, 2, -3, 3]);
    assert_eq!(order(&[1, 2, -1, -2]), [1, -1, 2, -2]);
    assert_eq!(order(&[-1, 1, -2, 2]), [-1, 1, -2, 2]);
    assert_eq!(order(&[-1, -2, -3, 1]), [-1, 1, -2, -3]);
    assert_eq!(order(&[-1, 1, 2, 3]), [-1, 1, 2, 3]);
    assert_eq!(order(&[3, 1, 2]), [3, 1, 2]);
    assert_eq!(order(&[-1]), [-1]);
    assert_eq!(order(&[]), []);
}
