//! A moment as text, for chat templates that ask for today's date.

use std::fmt::Write as _;
use std::time::Duration;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] =
    ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// `strftime` in UTC for the directives that templates use: `%Y %y %m %d %e %j %B %b %A %a %H %I
/// %M %S %p %F %T %%`. Any other directive stays as it is.
///
/// * `since_epoch`: since 1970-01-01 UTC
pub(crate) fn strftime(format: &str, since_epoch: Duration) -> String {
    let moment = Moment::of(since_epoch.as_secs());
    let mut text = String::with_capacity(format.len() + 16);
    let mut chars = format.chars();
    while let Some(char) = chars.next() {
        match (char, char == '%') {
            (_, true) => moment.directive(chars.next(), &mut text),
            (plain, false) => text.push(plain),
        }
    }
    text
}

struct Moment {
    year: u64,
    month: u64,
    day: u64,
    day_of_year: u64,
    weekday: usize,
    second_of_day: u64,
}

impl Moment {
    /// Howard Hinnant's `civil_from_days`, for days from 1970 on.
    fn of(seconds: u64) -> Self {
        let days = seconds / 86_400;
        let shifted = days + 719_468;
        let era = shifted / 146_097;
        let day_of_era = shifted % 146_097;
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let from_march = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * from_march + 2) / 153;
        let day = from_march - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        let leap = u64::from(
            year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)),
        );
        let day_of_year = if month > 2 { from_march + 60 + leap } else { from_march - 305 };
        let weekday = (days % 7) as usize;
        Self { year, month, day, day_of_year, weekday, second_of_day: seconds % 86_400 }
    }

    fn directive(&self, directive: Option<char>, text: &mut String) {
        let (hour, minute, second) =
            (self.second_of_day / 3_600, self.second_of_day / 60 % 60, self.second_of_day % 60);
        let month = MONTHS[self.month as usize - 1];
        let weekday = WEEKDAYS[self.weekday];
        let half = if hour < 12 { "AM" } else { "PM" };
        let hour12 = (hour + 11) % 12 + 1;
        let Self { year, month: number, day, day_of_year, .. } = self;
        let written = match directive {
            Some('Y') => write!(text, "{year}"),
            Some('y') => write!(text, "{:02}", year % 100),
            Some('m') => write!(text, "{number:02}"),
            Some('d') => write!(text, "{day:02}"),
            Some('e') => write!(text, "{day:2}"),
            Some('j') => write!(text, "{day_of_year:03}"),
            Some('B') => write!(text, "{month}"),
            Some('b' | 'h') => write!(text, "{}", &month[..3]),
            Some('A') => write!(text, "{weekday}"),
            Some('a') => write!(text, "{}", &weekday[..3]),
            Some('H') => write!(text, "{hour:02}"),
            Some('I') => write!(text, "{hour12:02}"),
            Some('M') => write!(text, "{minute:02}"),
            Some('S') => write!(text, "{second:02}"),
            Some('p') => write!(text, "{half}"),
            Some('F') => write!(text, "{year}-{number:02}-{day:02}"),
            Some('T') => write!(text, "{hour:02}:{minute:02}:{second:02}"),
            Some('%') | None => write!(text, "%"),
            Some(other) => write!(text, "%{other}"),
        };
        written.expect("writing to a string can't fail");
    }
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
            (4_102_444_800, "%d %b %Y %I%p 100%% %Q", "01 Jan 2100 12AM 100% %Q"),
        ];
        for (seconds, format, expected) in cases {
            assert_eq!(strftime(format, Duration::from_secs(seconds)), expected);
        }
    }
}
