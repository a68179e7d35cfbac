//! Times as text (RFC 3339, section 5.6).

/// Whether `text` is a date and time with its offset, such as `1970-01-01T00:00:01Z`.
pub(crate) fn is_rfc3339(text: &str) -> bool {
    parse(text).is_some()
}

fn parse(text: &str) -> Option<()> {
    let (date, time) = text.split_once(['T', 't'])?;
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 if is_leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    (1..=days).contains(&day).then_some(())?;
    let zone = time.find(['Z', 'z', '+', '-'])?;
    let (clock, offset) = time.split_at(zone);
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let is_fraction = !fraction.is_empty() && fraction.bytes().all(|b| b.is_ascii_digit());
    is_fraction.then_some(())?;
    let [hour, minute, second] = numbers(clock, ':', [2, 2, 2])?;
    // A leap second is written as 60.
    (hour < 24 && minute < 60 && second <= 60).then_some(())?;
    if offset.eq_ignore_ascii_case("Z") {
        return Some(());
    }
    let [hour, minute] = numbers(offset.get(1..)?, ':', [2, 2])?;
    (hour < 24 && minute < 60).then_some(())
}

/// Exactly `N` numbers of these widths.
fn numbers<const N: usize>(text: &str, between: char, widths: [usize; N]) -> Option<[u32; N]> {
    let mut found = [0; N];
    let mut parts = text.split(between);
    for (slot, width) in found.iter_mut().zip(widths) {
        let part = parts.next()?;
        let is_number = part.len() == width && part.bytes().all(|b| b.is_ascii_digit());
        *slot = part.parse().ok().filter(|_| is_number)?;
    }
    parts.next().is_none().then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_from_others() {
        for text in [
            "1970-01-01T00:00:01Z",
            "2024-02-29t23:59:60.123456789z",
            "2026-11-22T04:00:00+05:30",
        ] {
            assert!(is_rfc3339(text), "{text}");
        }
        for text in [
            "",
            "1970-01-01",
            "1970-01-01T00:00:01",
            "1970-01-01 00:00:01Z",
            "2023-02-29T00:00:00Z",
            "1970-13-01T00:00:00Z",
            "1970-01-01T24:00:00Z",
            "1970-01-01T00:00:00.Z",
            "1970-01-01T00:00:00+0530",
            "1970-01-01T00:00:00Zx",
            "+970-01-01T00:00:00Z",
        ] {
            assert!(!is_rfc3339(text), "{text}");
        }
    }
}
