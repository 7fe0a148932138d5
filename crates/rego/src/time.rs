//! The three functions of time that Intel's appraisal policies have, on a time that is given. The interpreter's own ask
//! the machine's clock.

use std::cell::Cell;

use jiff::{Span, Timestamp, tz::TimeZone};
use regorus::{Engine, Value};

/// Names and numbers of arguments.
pub(crate) const FUNCTIONS: [(&str, u8); 3] = [("time.now_ns", 0), ("time.parse_rfc3339_ns", 1), ("time.add_date", 4)];

thread_local! {
    /// Unix seconds; an evaluation works on one thread.
    static NOW: Cell<u64> = const { Cell::new(0) };
}

/// What `time.now_ns` says on this thread from here on.
pub(crate) fn set(now: u64) {
    NOW.set(now);
}

/// Makes the functions known to an engine.
pub(crate) fn add(engine: &mut Engine) -> anyhow::Result<()> {
    for (name, arguments) in FUNCTIONS {
        let function: fn(&[Value]) -> Option<Value> = match name {
            "time.now_ns" => now_ns,
            "time.parse_rfc3339_ns" => parse_rfc3339_ns,
            _ => add_date,
        };
        // What cannot be computed fails the evaluation: undefined, behind a `not`, would count as true.
        let checked = move |arguments: Vec<Value>| function(&arguments).ok_or_else(|| anyhow::anyhow!("{name}: no such time"));
        engine.add_extension(name.to_owned(), arguments, Box::new(checked))?;
    }
    Ok(())
}

fn now_ns(_: &[Value]) -> Option<Value> {
    nanoseconds(i128::from(NOW.get()) * 1_000_000_000)
}

fn parse_rfc3339_ns(arguments: &[Value]) -> Option<Value> {
    let text = arguments.first()?.as_string().ok()?;
    nanoseconds(text.parse::<Timestamp>().ok()?.as_nanosecond())
}

/// Years, months and days in UTC; the day of the month is kept or, where the month has none such, its last.
fn add_date(arguments: &[Value]) -> Option<Value> {
    let [at, years, months, days] = arguments else { return None };
    let at = Timestamp::from_nanosecond(at.as_i64().ok()?.into()).ok()?;
    let span = Span::new().try_years(years.as_i64().ok()?).ok()?.try_months(months.as_i64().ok()?).ok()?;
    let span = span.try_days(days.as_i64().ok()?).ok()?;
    let then = TimeZone::UTC.to_datetime(at).checked_add(span).ok()?;
    nanoseconds(TimeZone::UTC.to_timestamp(then).ok()?.as_nanosecond())
}

fn nanoseconds(nanoseconds: i128) -> Option<Value> {
    i64::try_from(nanoseconds).ok().map(Value::from)
}
