//! Repeated measurements of one contender, and the table of all of them.

use std::time::Duration;

use serde_json::{Value, json};

/// One contender's measurements.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// Why it could not be measured here.
    pub(crate) missing: Option<String>,
    seconds: Vec<f64>,
}

impl Row {
    pub(crate) fn new(name: &'static str, missing: Option<String>) -> Self {
        Self {
            name,
            missing,
            seconds: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, took: Duration) {
        self.seconds.push(took.as_secs_f64());
        self.seconds.sort_by(f64::total_cmp);
    }

    /// The middle one, or the mean of the two in the middle.
    pub(crate) fn median(&self) -> Option<f64> {
        let (count, half) = (self.seconds.len(), self.seconds.len() / 2);
        let upper = *self.seconds.get(half)?;
        match count % 2 {
            0 => Some(f64::midpoint(self.seconds[half - 1], upper)),
            _ => Some(upper),
        }
    }

    /// This row's median divided by `other`'s.
    pub(crate) fn over(&self, other: &Self) -> Option<f64> {
        Some(self.median()? / other.median()?)
    }

    fn line(&self, mib: f64) -> String {
        let name = self.name;
        if let Some(why) = &self.missing {
            return format!("{name:<58} missing: {why}");
        }
        let (Some(median), Some(min), Some(max)) =
            (self.median(), self.seconds.first(), self.seconds.last())
        else {
            return format!("{name:<58} not run");
        };
        let rate = mib / median;
        format!("{name:<58} {median:>7.2} {min:>7.2} {max:>7.2} {rate:>8.0}")
    }
}

/// The table of `rows`, each of which moves `mib` MiB.
pub(crate) fn render(rows: &[Row], mib: f64) -> String {
    let head = format!(
        "{:<58} {:>7} {:>7} {:>7} {:>8}",
        "", "median", "min", "max", "MiB/s"
    );
    let lines = rows.iter().map(|row| row.line(mib));
    let all: Vec<String> = std::iter::once(head).chain(lines).collect();
    all.join("\n")
}

/// A number for the line of JSON, with two decimals; `null` for what was not measured.
pub(crate) fn number(value: Option<f64>) -> Value {
    value.map_or(Value::Null, |value| json!((value * 100.0).round() / 100.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(seconds: &[u64]) -> Row {
        let mut row = Row::new("x", None);
        for &second in seconds {
            row.add(Duration::from_secs(second));
        }
        row
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(row(&[]).median(), None);
        assert_eq!(row(&[9, 1, 2]).median(), Some(2.0));
        assert_eq!(row(&[4, 1]).median(), Some(2.5));
        assert_eq!(row(&[6]).over(&row(&[4])), Some(1.5));
        assert_eq!(row(&[6]).over(&row(&[])), None);
    }

    #[test]
    fn what_is_missing_is_said() {
        let missing = Row::new("curl", Some("not installed".to_owned()));
        let table = render(&[row(&[2]), missing], 8.0);
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[1].ends_with("2.00    2.00    2.00        4"));
        assert!(lines[2].ends_with("missing: not installed"));
        assert_eq!(number(Some(1.005_6)), json!(1.01));
        assert_eq!(number(None), Value::Null);
    }
}
