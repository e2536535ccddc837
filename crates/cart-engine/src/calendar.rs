//! A moment as text, for chat templates that ask for today's date.

use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::strtime::{BrokenDownTime, Config};
use jiff::tz::TimeZone;

/// `strftime` in UTC. A directive that nobody knows stays as it is, and so does the whole format
/// for a moment after the year 9999.
///
/// * `since_epoch`: since 1970-01-01 UTC
pub(crate) fn strftime(format: &str, since_epoch: Duration) -> String {
    let moment = i64::try_from(since_epoch.as_secs()).ok();
    let moment = moment.and_then(|seconds| Timestamp::from_second(seconds).ok());
    let written = moment.and_then(|moment| {
        let time = BrokenDownTime::from(&moment.to_zoned(TimeZone::UTC));
        time.to_string_with_config(&Config::new().lenient(true), format).ok()
    });
    written.unwrap_or_else(|| format.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments_come_out_as_python_writes_them() {
        let cases = [
            (0, "%A %d %B %Y %j", "Thursday 01 January 1970 001"),
            (951_827_696, "%a %e %b %y %H:%M:%S", "Tue 29 Feb 00 12:34:56"),
            (951_827_696, "%j %F %T %p %I", "060 2000-02-29 12:34:56 PM 12"),
            (1_735_689_599, "%F %j %A", "2024-12-31 366 Tuesday"),
            (1_709_251_200, "%F %j", "2024-03-01 061"),
            (4_102_444_800, "%d %b %Y %I%p 100%% %!", "01 Jan 2100 12AM 100% %!"),
        ];
        for (seconds, format, expected) in cases {
            assert_eq!(strftime(format, Duration::from_secs(seconds)), expected);
        }
    }
}
