//! The time as the services daytime and time send it.

use std::time::{SystemTime, UNIX_EPOCH};

const FROM_1900_TO_1970: u64 = 2_208_988_800;

/// The seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A time in seconds since 1970 as text, in UTC.
pub(crate) fn daytime(seconds: u64) -> String {
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil_date(days);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// A time in seconds since 1970 as RFC 868 sends it: the seconds since 1900, of which 32 bits are
/// left. They wrap around in 2036.
pub(crate) fn time(seconds: u64) -> [u8; 4] {
    ((seconds + FROM_1900_TO_1970) as u32).to_be_bytes()
}

/// The Gregorian date of a day since 1970-01-01. Iterates over years and months, which is fast
/// enough for once per connection.
fn civil_date(mut days: u64) -> (u64, usize, u64) {
    let leap = |year: u64| (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}
