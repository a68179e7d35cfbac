//! Progress: a moving line on a terminal, plain lines elsewhere. Always on standard error.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use modelship_pipeline_core::{Event, Progress, Stage};

use crate::bytes;

/// Plain lines of one stage come no more often than this.
const PLAIN_EVERY: Duration = Duration::from_secs(2);

/// The progress sink of a program.
pub fn progress() -> Progress {
    if std::io::stderr().is_terminal() {
        terminal()
    } else {
        plain()
    }
}

fn terminal() -> Progress {
    let all = MultiProgress::new();
    let bars: Mutex<BTreeMap<Stage, ProgressBar>> = Mutex::default();
    Arc::new(move |event| {
        let mut bars = bars.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Started { stage, what } => {
                let bar = all.add(ProgressBar::new_spinner().with_style(style()));
                bar.set_prefix(format!("{stage:>9}", stage = stage.to_string()));
                bar.set_message(what);
                bar.enable_steady_tick(Duration::from_millis(120));
                bars.insert(stage, bar);
            }
            Event::Progress {
                stage,
                what,
                done,
                total,
            } => {
                if let Some(bar) = bars.get(&stage) {
                    bar.set_message(moved(&what, done, total));
                }
            }
            Event::Note { stage, text } => {
                // Nothing better can be done about a terminal that went away.
                let _ = all.println(format!("{:>9}  {text}", stage.to_string()));
            }
            Event::Finished {
                stage,
                outcome,
                elapsed,
            } => {
                if let Some(bar) = bars.remove(&stage) {
                    bar.finish_and_clear();
                }
                let _ = all.println(finished(stage, &outcome, elapsed));
            }
            _ => {}
        }
    })
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix} {spinner} {wide_msg} {elapsed}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
}

fn plain() -> Progress {
    let last: Mutex<BTreeMap<Stage, Instant>> = Mutex::default();
    Arc::new(move |event| match event {
        Event::Started { stage, what } => {
            last.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(stage, Instant::now());
            eprintln!("{:>9}  {what}", stage.to_string());
        }
        Event::Progress {
            stage,
            what,
            done,
            total,
        } => {
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            let due = last
                .get(&stage)
                .is_none_or(|at| at.elapsed() >= PLAIN_EVERY);
            if due {
                last.insert(stage, Instant::now());
                eprintln!("{:>9}  {}", stage.to_string(), moved(&what, done, total));
            }
        }
        Event::Note { stage, text } => eprintln!("{:>9}  {text}", stage.to_string()),
        Event::Finished {
            stage,
            outcome,
            elapsed,
        } => eprintln!("{}", finished(stage, &outcome, elapsed)),
        _ => {}
    })
}

fn moved(what: &str, done: u64, total: Option<u64>) -> String {
    match total {
        Some(total) => format!("{what}  {} of {}", bytes(done), bytes(total)),
        None => format!("{what}  {}", bytes(done)),
    }
}

fn finished(stage: Stage, outcome: &str, elapsed: Duration) -> String {
    format!(
        "{:>9}  done in {:.2} s: {outcome}",
        stage.to_string(),
        elapsed.as_secs_f64()
    )
}
