//! Sizes, counts and times as people read them.

use jiff::Timestamp;

/// `98.4 MB`, in powers of 1000, three digits.
pub(crate) fn human(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    match (unit, value) {
        (0, _) => format!("{bytes} B"),
        (_, value) if value < 9.995 => format!("{value:.2} {}", UNITS[unit]),
        (_, value) if value < 99.95 => format!("{value:.1} {}", UNITS[unit]),
        (_, value) => format!("{value:.0} {}", UNITS[unit]),
    }
}

/// `1,234,567`.
pub(crate) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 tensor`, `2 tensors`.
pub(crate) fn counted(count: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(count), if count == 1 { "" } else { "s" })
}

/// `0.0378 ms`, `37.8 ms`, `0.18 s`, `3 min 5 s`: short times in milliseconds, three digits.
pub(crate) fn seconds(seconds: f64) -> String {
    let milliseconds = seconds * 1e3;
    if milliseconds < 99.95 && milliseconds > 0.0 {
        let digits = (2.0 - milliseconds.log10().floor()).clamp(0.0, 6.0) as usize;
        format!("{milliseconds:.digits$} ms")
    } else if seconds < 9.995 {
        format!("{seconds:.2} s")
    } else if seconds < 59.95 {
        format!("{seconds:.1} s")
    } else {
        let whole = seconds.round();
        format!("{} min {} s", (whole / 60.0).floor(), whole % 60.0)
    }
}

/// The same from milliseconds, as reports have them; a missing figure is a question mark.
pub(crate) fn milliseconds(field: &serde_json::Value) -> String {
    field.as_f64().map_or_else(|| "?".to_owned(), |milliseconds| seconds(milliseconds / 1e3))
}

/// `2026-11-21 04:05:06Z` from seconds since 1970; the seconds themselves after the year 9999.
pub(crate) fn timestamp(unix: u64) -> String {
    let moment = i64::try_from(unix).ok().and_then(|unix| Timestamp::from_second(unix).ok());
    moment.map_or_else(
        || format!("{unix} s"),
        |moment| moment.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        assert_eq!(human(0), "0 B");
        assert_eq!(human(999), "999 B");
        assert_eq!(human(98_362_432), "98.4 MB");
        assert_eq!(human(999_600), "1.00 MB");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(counted(1, "tensor"), "1 tensor");
    }

    #[test]
    fn times_have_as_many_digits_as_say_something() {
        let pause = serde_json::json!(0.037_846_000_000_5);
        assert_eq!(milliseconds(&pause), "0.0378 ms");
        assert_eq!(milliseconds(&serde_json::Value::Null), "?");
        for (given, shown) in [
            (0.0, "0.00 s"),
            (2e-9, "0.000002 ms"),
            (0.001_234, "1.23 ms"),
            (0.0378, "37.8 ms"),
            (0.18, "0.18 s"),
            (12.34, "12.3 s"),
            (59.99, "1 min 0 s"),
            (119.7, "2 min 0 s"),
            (185.0, "3 min 5 s"),
        ] {
            assert_eq!(seconds(given), shown);
        }
    }

    #[test]
    fn times_are_dates() {
        assert_eq!(timestamp(0), "1970-01-01 00:00:00Z");
        assert_eq!(timestamp(951_782_400), "2000-02-29 00:00:00Z");
        assert_eq!(timestamp(1_795_234_567), "2026-11-21 04:16:07Z");
    }
}
