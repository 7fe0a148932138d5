//! `cargo xtask demo`: from a clone to a served prediction on one laptop.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use keyferry_testkit::{
    StartFailure,
    otlp::{OtlpReceiver, TraceReport},
    stack::{KmsKind, ModelKind, Prediction, Stack, StackOptions, Step, Steps},
};
use serde_json::json;

use crate::run;

/// The root span of the main job.
const JOB: &str = "load_model";
/// What `token-broker` and `key-release` call the token in their spans.
const TOKEN_ID: &str = "keyferry.token.id";
/// How long the last batch of spans may take after the prediction.
const TRACE_WITHIN: Duration = Duration::from_secs(20);
/// Columns of the waterfall.
const COLUMNS: usize = 140;
/// The services whose spans make one trace.
const SERVICES: [&str; 4] = ["attester", "key-release", "model-runner", "token-broker"];

/// Flags of `demo`; `stack` has the same.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Arguments {
    /// Where the key lives: pykmip (a real KMIP server), openbao (a real OpenBao) or dev (one encrypted file)
    #[arg(long, default_value = "pykmip")]
    pub(crate) kms: KmsKind,
    /// What is served: linreg (Intel's sample model) or onnx (made with scikit-learn)
    #[arg(long, default_value = "linreg")]
    pub(crate) model: ModelKind,
    /// End standard output with one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// What the demo found out.
struct Outcome {
    prediction: Prediction,
    td_id: String,
    key_id: String,
    trace: TraceReport,
    token_id: String,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), StartFailure> {
    let begun = Instant::now();
    eprintln!("demo: building the programs (the first time takes minutes)");
    run::build_programs()?;
    let built = Step { name: "build".to_owned(), duration: begun.elapsed() };
    let mut steps = Steps::new(|name| eprintln!("demo: {}", name.replace('_', " ")));
    let result = run::runtime()?.block_on(run::unless_interrupted(job(arguments, &mut steps)))?.unwrap_or_else(|| Err(interrupted()));
    let all: Vec<Step> = std::iter::once(built).chain(steps.done().iter().cloned()).collect();
    let outcome = match result {
        Ok(outcome) => outcome,
        Err(failure) => {
            if arguments.json {
                println!("{}", json!({ "outcome": "failed", "error": failure.to_string(), "hint": failure.hint(), "steps": all }));
            }
            return Err(failure);
        }
    };
    show(arguments, &outcome, &all, begun);
    verdict(&outcome)
}

/// What was started ended with the job; nothing of it needs to be read any more.
fn interrupted() -> StartFailure {
    let ended = StartFailure::new("the demo was interrupted", "everything it started was ended; run it again when you like");
    run::remove(&directory()).err().unwrap_or(ended)
}

async fn job(arguments: &Arguments, steps: &mut Steps) -> Result<Outcome, StartFailure> {
    let receiver = OtlpReceiver::start().await?;
    let mut options = StackOptions::new(directory());
    options.kms = arguments.kms;
    options.model = arguments.model;
    options.otlp_url = Some(receiver.endpoint().to_owned());
    let stack = Stack::start(options, steps).await?;
    let prediction = steps.time("predict", stack.predict(0)).await?;
    let trace = steps.time("collect_trace", trace(&receiver)).await?;
    let token_id = trace.spans.iter().find_map(|span| span.attribute(TOKEN_ID)).unwrap_or_default().to_owned();
    let (td_id, key_id) = (stack.description.tds[0].id.clone(), stack.description.key_id.clone());
    let directory = stack.directory().to_owned();
    steps.time("stop", stack.stop()).await?;
    // Nothing is left behind but the tools' cache; on a failure above the logs stay.
    let _ = std::fs::remove_dir_all(directory);
    Ok(Outcome { prediction, td_id, key_id, trace, token_id })
}

/// The trace of the main job, once all of it arrived.
async fn trace(receiver: &OtlpReceiver) -> Result<TraceReport, StartFailure> {
    let mut trace_id = None;
    let begun = receiver
        .wait_until(TRACE_WITHIN, |spans| {
            trace_id = spans.iter().find(|span| span.name == JOB).map(|span| span.trace_id.clone());
            trace_id.is_some()
        })
        .await;
    let Some(trace_id) = trace_id.filter(|_| begun) else {
        return Err(StartFailure::new(format!("no span named {JOB} arrived"), "the model-runner sends no spans: read its log"));
    };
    Ok(receiver.wait_for_trace(&trace_id, TRACE_WITHIN, |trace| trace.is_whole() && trace.services == SERVICES).await)
}

fn directory() -> PathBuf {
    run::target_directory().join(format!("demo-{}", std::process::id()))
}

fn show(arguments: &Arguments, outcome: &Outcome, steps: &[Step], begun: Instant) {
    let total_ms = begun.elapsed().as_secs_f64() * 1e3;
    // With --json the talk moves aside, so that standard output ends in one object.
    let talk = |line: &str| if arguments.json { eprintln!("{line}") } else { println!("{line}") };
    talk("\nOne release as one trace:\n");
    talk(&outcome.trace.waterfall(COLUMNS));
    talk("Steps:");
    for step in steps {
        talk(&format!("  {:<28} {:>10.1} ms", step.name, step.duration.as_secs_f64() * 1e3));
    }
    let Prediction { got, wanted, meaning } = &outcome.prediction;
    talk(&format!(
        "\nPrediction: {got} (wanted {wanted}), {meaning}. Key from {}, model {}.",
        arguments.kms.name(),
        arguments.model.name()
    ));
    if arguments.json {
        let object = json!({
            "outcome": if verdict(outcome).is_ok() { "served" } else { "wrong" },
            "prediction": number(*got),
            "model": arguments.model.name(),
            "kms": arguments.kms.name(),
            "td_id": outcome.td_id,
            "key_id": outcome.key_id,
            "token_id": outcome.token_id,
            "trace_id": outcome.trace.trace_id,
            "trace_services": outcome.trace.services,
            "spans": outcome.trace.spans.len(),
            "steps": steps,
            "total_ms": total_ms,
        });
        println!("{object}");
    }
}

/// A whole number as one: the sample answers 0 or 1, not 0.0.
fn number(value: f64) -> serde_json::Value {
    let text = value.to_string();
    text.parse::<i64>().map_or_else(|_| json!(value), |whole| json!(whole))
}

/// The demo is right when the prediction is, and when one trace tells the whole story.
fn verdict(outcome: &Outcome) -> Result<(), StartFailure> {
    if !outcome.prediction.is_right() {
        return Err(StartFailure::new(
            format!("the prediction is wrong: {:?}", outcome.prediction),
            "the model-runner's answer differs from the known one",
        ));
    }
    let trace = &outcome.trace;
    if trace.roots.len() != 1 || !trace.orphans.is_empty() || trace.services != SERVICES {
        return Err(StartFailure::new(
            format!("the trace is torn: {} roots, {} orphans, services {:?}", trace.roots.len(), trace.orphans.len(), trace.services),
            "a service does not pass its trace context on",
        ));
    }
    Ok(())
}
