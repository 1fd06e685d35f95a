//! Events of the library, as a program sees them that subscribes to them.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Level, Metadata, Subscriber};

/// An event: its level, and its fields, of which `message` is one.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) level: Level,
    pub(crate) fields: BTreeMap<String, String>,
}

impl Event {
    pub(crate) fn message(&self) -> &str {
        &self.fields["message"]
    }
}

/// All events since it was made.
#[derive(Clone, Debug, Default)]
pub(crate) struct Events(Arc<Mutex<Vec<Event>>>);

impl Events {
    /// Those of this thread while something runs.
    pub(crate) fn of(run: impl FnOnce()) -> Vec<Event> {
        let events = Self::default();
        tracing::subscriber::with_default(events.clone(), run);
        events.all()
    }

    /// Those of all threads from now on. Once in a process.
    pub(crate) fn of_all_threads() -> Self {
        let events = Self::default();
        tracing::subscriber::set_global_default(events.clone()).unwrap();
        events
    }

    pub(crate) fn all(&self) -> Vec<Event> {
        self.0.lock().unwrap().clone()
    }
}

#[derive(Default)]
struct Fields(BTreeMap<String, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }
}

impl Subscriber for Events {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("tailcask")
    }

    fn event(&self, event: &tracing::Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let event = Event { level: *event.metadata().level(), fields: fields.0 };
        self.0.lock().unwrap().push(event);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
