//! The steps of a start, with their times.

use std::time::{Duration, Instant};

use serde::Serialize;

/// One step that was done.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// What it was, in `snake_case`.
    pub name: String,
    /// How long it took.
    #[serde(serialize_with = "milliseconds", rename = "milliseconds")]
    pub duration: Duration,
}

fn milliseconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((duration.as_secs_f64() * 1e6).round() / 1e3)
}

/// Records steps and tells a listener about each when it begins.
pub struct Steps {
    done: Vec<Step>,
    tell: Box<dyn FnMut(&str) + Send>,
}

impl std::fmt::Debug for Steps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Steps").field("done", &self.done).finish_non_exhaustive()
    }
}

impl Steps {
    /// `tell` hears the name of each step as it begins.
    pub fn new(tell: impl FnMut(&str) + Send + 'static) -> Self {
        Self { done: Vec::new(), tell: Box::new(tell) }
    }

    /// Does one step.
    pub async fn time<T>(&mut self, name: &str, work: impl Future<Output = T>) -> T {
        (self.tell)(name);
        let begun = Instant::now();
        let result = work.await;
        self.done.push(Step { name: name.to_owned(), duration: begun.elapsed() });
        result
    }

    /// What was done so far, in order.
    pub fn done(&self) -> &[Step] {
        &self.done
    }
}
