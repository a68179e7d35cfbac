//! The end of a run, told to a person.

use std::fmt;

use modelship_pipeline_core::{Release, Run};

/// The summary of a run.
#[derive(Debug)]
pub struct Summary<'a>(pub &'a Run);

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let release = self.0.release();
        match self.0 {
            Run::Unchanged(_) => writeln!(
                f,
                "unchanged: {release}\nNothing was rebuilt and nothing was moved."
            ),
            _ => released(f, release),
        }
    }
}

fn released(f: &mut fmt::Formatter<'_>, release: &Release) -> fmt::Result {
    writeln!(f, "released: {release:#}")?;
    writeln!(f, "  base    {}", release.inputs.base)?;
    if !release.layers.is_empty() {
        writeln!(f, "\nlayers, bottom to top:")?;
        for layer in &release.layers {
            writeln!(
                f,
                "  {:<6} {:>10}  {:>10} moved  {}",
                layer.role,
                bytes(layer.size),
                bytes(layer.moved),
                layer.digest
            )?;
        }
    }
    if let Some(verdict) = &release.verdict {
        writeln!(
            f,
            "\nsmoke test, in {}: ready after {:.2} s",
            verdict.isolation, verdict.ready_seconds
        )?;
        if let Some(answer) = &verdict.answer {
            writeln!(f, "  answered {answer}")?;
        }
    }
    writeln!(f, "\nstages:")?;
    for stage in &release.stages {
        writeln!(
            f,
            "  {:<9} {:>7.2} s  {}",
            stage.stage.to_string(),
            stage.seconds,
            stage.outcome
        )?;
    }
    Ok(())
}

/// A number of bytes, for people: binary units, three digits.
#[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
pub fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1000.0 {
            return if unit == "B" {
                format!("{count} B")
            } else {
                format!("{value:.1} {unit}")
            };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn bytes_are_shown_in_binary_units() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1024), "1.0 KiB");
        assert_eq!(bytes(20 * 1024 * 1024), "20.0 MiB");
    }
}
