//! Images of a moment, and what recoveries make of them.

use super::files::{check_aside, has_aside, set_aside, write};
use super::reports::{self, Report};
use super::{IMAGES, Workload, copies, images, moments, record};
use crash_kit::{Crash, Image, Recorder};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

/// Recoveries that power losses interrupt, one after the other.
pub(crate) const RECOVERIES: u64 = 2;

/// A moment of a child, and a choice of what is lost.
pub(crate) struct Case<'c> {
    pub(crate) place: &'c Path,
    pub(crate) seed: u64,
    pub(crate) crash: &'c Crash,
    /// What children had reported by then, and how much of that before the first power loss.
    pub(crate) known: &'c [Report],
    pub(crate) before: usize,
    pub(crate) image: u64,
}

impl Case<'_> {
    /// Checks the image; then it is gone. Returns what is set aside by then.
    pub(crate) fn check<W: Workload>(
        &self,
        history: &W::History,
        was_aside: &[(u64, u64)],
    ) -> Result<Vec<(u64, u64)>, String> {
        let image = self.crash.image(self.image);
        let to = self.path();
        write(&image, &to);
        IMAGES.fetch_add(1, Ordering::Relaxed);
        let db = to.join("db");
        let checked = check_aside(&db, self.known)
            .and_then(|()| copies::check::<W>(&to, self.seed, history, self.known))
            .and_then(|()| W::check_after(&to, self.seed, history, self.before, self.known))
            .and_then(|()| has_aside(&db, was_aside));
        let aside = set_aside(&db);
        std::fs::remove_dir_all(&to).unwrap();
        checked.map(|()| aside).map_err(|why| self.describe::<W>(&image, &why))
    }

    fn path(&self) -> PathBuf {
        self.place.join(format!("image-{}-{}", self.crash.moment, self.image))
    }

    fn describe<W: Workload>(&self, image: &Image, why: &str) -> String {
        let Self { seed, crash, image: number, .. } = self;
        format!("{} {seed}, moment {}, image {number}: {why}\n{image}", W::ROLE, crash.moment)
    }

    /// Opens the image in children that are recorded, too, and checks images of that; and so on, after one
    /// of them. `aside`: what a recovery of the image sets aside. Wherever the power fails during another
    /// one, all of that is set aside in the end.
    pub(crate) fn check_recovery<W: Workload>(
        &self,
        history: &W::History,
        aside: &[(u64, u64)],
        left: u64,
    ) -> Result<(), String> {
        let image = self.crash.image(self.image);
        self.recover::<W>(&image, history, aside, left).map_err(|why| {
            let first = self.describe::<W>(&image, "what follows came of this");
            format!("{first}after a recovery: {why}")
        })
    }

    fn recover<W: Workload>(
        &self,
        image: &Image,
        history: &W::History,
        aside: &[(u64, u64)],
        left: u64,
    ) -> Result<(), String> {
        let to = self.path();
        write(image, &to);
        let role = format!("{}-again {}", W::ROLE, self.seed);
        let mixed = self.image ^ self.crash.moment << 32 ^ left << 56;
        let recorder = Recorder::new(&to).seed(mixed);
        let moments = moments::of_recoveries(mixed);
        let Some(recorded) = record(&recorder, &[&role, &role], &to, moments) else {
            return Ok(());
        };
        super::none_has_failed(&recorded)?;
        // What they say comes after what was known before.
        let said = reports::parse(&recorded.reports);
        let all: Vec<_> = self.known.iter().chain(&said).cloned().collect();
        // They have died, and the machine goes on.
        W::check_after(&to, self.seed, history, self.before, &all)
            .and_then(|()| has_aside(&to.join("db"), aside))
            .map_err(|why| format!("their death: {why}"))?;
        std::fs::remove_dir_all(&to).unwrap();
        let again = mixed % recorded.crashes.len() as u64;
        for (nth, crash) in (0..).zip(&recorded.crashes) {
            let complete = reports::complete(&said, crash.reports).len();
            let known = &all[..self.known.len() + complete];
            let case = |image| Case { crash, known, image, ..*self };
            let mut aside_then = Vec::new();
            for choice in 0..images().div_ceil(3) {
                aside_then = case(self.image ^ choice << 48).check::<W>(history, aside)?;
            }
            if nth == again && left > 1 {
                let last = images().div_ceil(3) - 1;
                case(self.image ^ last << 48).check_recovery::<W>(
                    history,
                    &aside_then,
                    left - 1,
                )?;
            }
        }
        Ok(())
    }
}
