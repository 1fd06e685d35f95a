//! The progress bar of `load`.

use indicatif::{HumanCount, ProgressBar, ProgressState, ProgressStyle};
use std::fmt;
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Bytes of the input read so far, and pairs loaded per second; hidden unless standard error is a terminal.
pub(super) fn progress(total: Option<u64>, pairs: Arc<AtomicU64>) -> ProgressBar {
    let hidden = !io::stderr().is_terminal();
    let (bar, template) = match total {
        Some(total) => (
            ProgressBar::new(total),
            "{bar:30} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {pairs}/s {eta}",
        ),
        None => (
            ProgressBar::new_spinner(),
            "{spinner} {binary_bytes} {binary_bytes_per_sec} {pairs}/s",
        ),
    };
    if hidden {
        bar.set_draw_target(indicatif::ProgressDrawTarget::hidden());
    }
    let rate = move |state: &ProgressState, out: &mut dyn fmt::Write| {
        let seconds = state.elapsed().as_secs_f64().max(1e-3);
        // ORDERING: Relaxed; the figure is only shown.
        let rate = pairs.load(Relaxed) as f64 / seconds;
        let _ = write!(out, "{} pairs", HumanCount(rate as u64));
    };
    let style = ProgressStyle::with_template(template).expect("the template is valid");
    bar.with_style(style.with_key("pairs", rate))
}
