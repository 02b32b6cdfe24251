//! Computations that take CPU time.

/// The odd numbers that one pass of the sieve examines: its memory.
const SEGMENT: u64 = 1 << 16;

/// Counts the primes up to and including `limit`, by a segmented sieve of Eratosthenes.
pub(crate) fn primes(limit: u64) -> u64 {
    if limit < 2 {
        return 0;
    }
    let divisors: Vec<u64> = (3..=limit.isqrt()).step_by(2).filter(|&number| is_prime(number)).collect();
    let mut count = 1;
    let mut is_composite = vec![false; SEGMENT as usize];
    // Index `i` stands for the number `first + 2 * i`.
    let mut first = 3;
    while first <= limit {
        let length = SEGMENT.min((limit - first) / 2 + 1);
        let segment = &mut is_composite[..length as usize];
        segment.fill(false);
        let last = first + 2 * (length - 1);
        for &divisor in divisors.iter().take_while(|&&divisor| divisor * divisor <= last) {
            // The first odd multiple that a smaller divisor does not have.
            let multiple = (first.div_ceil(divisor) | 1).max(divisor) * divisor;
            let from = ((multiple - first) / 2).min(length);
            segment[from as usize..].iter_mut().step_by(divisor as usize).for_each(|odd| *odd = true);
        }
        count += segment.iter().filter(|&&is_composite| !is_composite).count() as u64;
        first = last + 2;
    }
    count
}

fn is_prime(odd: u64) -> bool {
    (3..=odd.isqrt()).step_by(2).all(|divisor| odd % divisor != 0)
}

/// Returns the prime factors of a number from 2, in ascending order.
pub(crate) fn factors(mut number: u64) -> Vec<u64> {
    let mut factors = Vec::new();
    let mut divisor = 2;
    while divisor * divisor <= number {
        while number % divisor == 0 {
            factors.push(divisor);
            number /= divisor;
        }
        divisor += if divisor == 2 { 1 } else { 2 };
    }
    if number > 1 {
        factors.push(number);
    }
    factors
}
