//! Times as documents have them, and as people read them. Pure.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// `2026-11-22T03:14:08Z`.
pub(super) fn stamp(now: OffsetDateTime) -> String {
    let now = now.to_offset(time::UtcOffset::UTC).truncate_to_second();
    now.format(&Rfc3339).expect("the clock shows a year before 10,000")
}

/// `for 40 s`; a time that is none, or by another clock, as it is written.
pub(super) fn since(then: &str, now: OffsetDateTime) -> String {
    age(then, now).map_or_else(|| format!("since {then}"), |age| format!("for {age}"))
}

/// `40 s ago`; a time that is none, or by another clock, as it is written.
pub(super) fn ago(then: &str, now: OffsetDateTime) -> String {
    age(then, now).map_or_else(|| format!("at {then}"), |age| format!("{age} ago"))
}

/// How long ago it was, in seconds; `None` of a time that is none, or by another clock.
pub(super) fn seconds(then: &str, now: OffsetDateTime) -> Option<i64> {
    /// By how much clocks may differ that are called the same.
    const SKEW: i64 = 60;
    let seconds = (now - OffsetDateTime::parse(then, &Rfc3339).ok()?).whole_seconds();
    (seconds >= -SKEW).then_some(seconds.max(0))
}

fn age(then: &str, now: OffsetDateTime) -> Option<String> {
    let seconds = seconds(then, now)?;
    let (minute, hour, day) = (60, 3600, 86_400);
    Some(match seconds {
        _ if seconds < 2 * minute => format!("{seconds} s"),
        _ if seconds < 2 * hour => format!("{} min", seconds / minute),
        _ if seconds < 2 * day => format!("{} h", seconds / hour),
        _ => format!("{} days", seconds / day),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_in_the_unit_that_people_would_use() {
        let now = OffsetDateTime::parse("2026-11-22T03:14:08.7Z", &Rfc3339).unwrap();
        for (then, expected) in [
            ("2026-11-22T03:14:08Z", "for 0 s"),
            ("2026-11-22T03:13:28Z", "for 40 s"),
            ("2026-11-22T03:12:09Z", "for 119 s"),
            ("2026-11-22T03:12:08Z", "for 2 min"),
            ("2026-11-22T01:14:09Z", "for 119 min"),
            ("2026-11-21T20:14:08Z", "for 7 h"),
            ("2026-11-21T20:14:08-07:00", "for 0 s"),
            ("2026-11-20T03:14:09Z", "for 47 h"),
            ("2026-11-20T03:14:08Z", "for 2 days"),
            // Another host's clock is a little ahead, or wrong.
            ("2026-11-22T03:15:08Z", "for 0 s"),
            ("2026-11-22T03:16:08Z", "since 2026-11-22T03:16:08Z"),
            ("yesterday", "since yesterday"),
            ("", "since "),
        ] {
            assert_eq!(since(then, now), expected);
        }
        assert_eq!((ago("2026-11-22T03:13:28Z", now), ago("noon", now)), ("40 s ago".to_owned(), "at noon".to_owned()));
    }

    #[test]
    fn a_stamp_is_in_whole_seconds_of_utc() {
        let now = OffsetDateTime::parse("2026-11-22T05:14:08.7+02:00", &Rfc3339).unwrap();
        assert_eq!(stamp(now), "2026-11-22T03:14:08Z");
    }
}
