//! `/v2`: the Open Inference Protocol over REST, in JSON. Source: KServe, `open_inference_rest.yaml`.

use std::sync::Arc;

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State, rejection::BytesRejection},
    response::Response,
    routing::{get, post},
};
use http::StatusCode;
use keyferry_contract::Reason;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::reply;
use crate::{
    Refusal, Runner,
    runtime::{DataType, Tensor, TensorSpec, Values},
    slot::LoadedModel,
};

pub(super) fn routes() -> Router<Arc<Runner>> {
    Router::new()
        .route("/v2", get(server))
        .route("/v2/health/live", get(live))
        .route("/v2/health/ready", get(ready))
        .route("/v2/models/{model}", get(metadata))
        .route("/v2/models/{model}/ready", get(model_ready))
        .route("/v2/models/{model}/infer", post(infer))
}

async fn server() -> Response {
    reply::json(StatusCode::OK, &json!({ "name": "keyferry-model-runner", "version": env!("CARGO_PKG_VERSION"), "extensions": [] }))
}

async fn live() -> Response {
    reply::json(StatusCode::OK, &json!({ "live": true }))
}

async fn ready(State(runner): State<Arc<Runner>>) -> Response {
    readiness(runner.model().is_some())
}

async fn model_ready(State(runner): State<Arc<Runner>>, Path(name): Path<String>) -> Response {
    readiness(named(&runner, &name).is_some())
}

fn readiness(ready: bool) -> Response {
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    reply::json(status, &json!({ "ready": ready }))
}

async fn metadata(State(runner): State<Arc<Runner>>, Path(name): Path<String>) -> Response {
    let Some(model) = named(&runner, &name) else { return unknown_model() };
    let tensors = |specs: &[TensorSpec]| specs.iter().map(tensor_metadata).collect::<Vec<_>>();
    let signature = model.runtime.signature();
    let body = json!({
        "name": model.name.as_str(),
        "versions": [],
        "platform": format!("keyferry_{}", model.runtime.media_type()),
        "inputs": tensors(&signature.inputs),
        "outputs": tensors(&signature.outputs),
    });
    reply::json(StatusCode::OK, &body)
}

fn tensor_metadata(spec: &TensorSpec) -> Value {
    let shape: Vec<i64> = spec.shape.iter().map(|extent| extent.and_then(|extent| i64::try_from(extent).ok()).unwrap_or(-1)).collect();
    json!({ "name": spec.name, "datatype": spec.data_type.name(), "shape": shape })
}

async fn infer(State(runner): State<Arc<Runner>>, Path(name): Path<String>, body: Result<Bytes, BytesRejection>) -> Response {
    let Some(model) = named(&runner, &name) else { return unknown_model() };
    let body = match body {
        Ok(body) => body,
        Err(rejection) => return reply::error(rejection.status(), "the body cannot be read, or is over 1 MiB"),
    };
    // A body of 1 MiB takes tens of milliseconds to read: not on the runtime's threads, and not before it is admitted.
    match runner.compute(model, move |model| answer(model, &body)).await {
        Ok(body) => reply::json(StatusCode::OK, &body),
        Err(refusal) => {
            let status = StatusCode::from_u16(refusal.reason.advice().http).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            reply::refusal(status, &refusal)
        }
    }
}

fn answer(model: &LoadedModel, body: &[u8]) -> Result<Value, Refusal> {
    let request: InferenceRequest = serde_json::from_slice(body).map_err(|error| malformed(where_it_fails(&error)))?;
    let wanted = request.wanted_outputs(model)?;
    let inputs = request.inputs.iter().map(InputTensor::read).collect::<Result<Vec<_>, _>>()?;
    let outputs = model.infer(&inputs)?;
    let outputs: Vec<Value> = outputs.iter().filter(|output| wanted.contains(&output.name)).map(output_tensor).collect();
    let mut body = json!({ "model_name": model.name.as_str(), "outputs": outputs });
    if let (Some(id), Some(body)) = (request.id, body.as_object_mut()) {
        body.insert("id".to_owned(), id.into());
    }
    Ok(body)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InferenceRequest {
    #[serde(default)]
    id: Option<String>,
    /// Hints of the caller; none of them changes anything here.
    #[serde(default, rename = "parameters")]
    _parameters: Map<String, Value>,
    inputs: Vec<InputTensor>,
    #[serde(default)]
    outputs: Vec<WantedOutput>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InputTensor {
    name: String,
    shape: Vec<usize>,
    datatype: String,
    #[serde(default, rename = "parameters")]
    _parameters: Map<String, Value>,
    data: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WantedOutput {
    name: String,
    #[serde(default, rename = "parameters")]
    _parameters: Map<String, Value>,
}

impl InferenceRequest {
    /// The names of the outputs to send: those asked for, or all.
    fn wanted_outputs(&self, model: &LoadedModel) -> Result<Vec<String>, Refusal> {
        let known = &model.runtime.signature().outputs;
        if self.outputs.is_empty() {
            return Ok(known.iter().map(|output| output.name.clone()).collect());
        }
        let wanted = self.outputs.iter().map(|output| {
            let found = known.iter().find(|known| known.name == output.name);
            found.map(|output| output.name.clone()).ok_or_else(|| malformed("outputs: the model has no output of such a name"))
        });
        wanted.collect()
    }
}

impl InputTensor {
    fn read(&self) -> Result<Tensor, Refusal> {
        let values = match DataType::from_name(&self.datatype) {
            Some(DataType::Fp32) => Values::Fp32(flat(&self.data, &float).ok_or_else(|| self.wrong("wants finite 32-bit floats"))?),
            Some(DataType::Int64) => Values::Int64(flat(&self.data, &Value::as_i64).ok_or_else(|| self.wrong("wants 64-bit integers"))?),
            None => return Err(self.wrong("is of a datatype that is not served: FP32 or INT64")),
        };
        Ok(Tensor { name: self.name.clone(), shape: self.shape.clone(), values })
    }

    fn wrong(&self, problem: &str) -> Refusal {
        let name: String = self.name.chars().take(64).collect();
        malformed(format!("input {name}: data {problem}"))
    }
}

/// The elements in row-major order, given flat or nested.
fn flat<T>(data: &Value, element: &impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
    fn visit<T>(data: &Value, element: &impl Fn(&Value) -> Option<T>, into: &mut Vec<T>) -> Option<()> {
        match data {
            Value::Array(items) => items.iter().try_for_each(|item| visit(item, element, into)),
            value => element(value).map(|value| into.push(value)),
        }
    }
    let mut into = Vec::new();
    data.is_array().then(|| visit(data, element, &mut into)).flatten().map(|()| into)
}

fn float(value: &Value) -> Option<f32> {
    // Parsed from its decimal digits, so that it is rounded once.
    value.as_number().and_then(|number| number.to_string().parse::<f32>().ok()).filter(|number| number.is_finite())
}

fn output_tensor(output: &Tensor) -> Value {
    let data: Value = match &output.values {
        Values::Fp32(values) => values.iter().copied().collect(),
        Values::Int64(values) => values.iter().copied().collect(),
    };
    json!({ "name": output.name, "shape": output.shape, "datatype": output.values.data_type().name(), "data": data })
}

fn named(runner: &Runner, name: &str) -> Option<Arc<LoadedModel>> {
    runner.model().filter(|model| model.name.as_str() == name)
}

fn unknown_model() -> Response {
    reply::error(StatusCode::NOT_FOUND, "no model of this name is loaded")
}

fn malformed(detail: impl Into<String>) -> Refusal {
    Refusal::new(Reason::RequestMalformed, detail)
}

/// Line and column, not serde's text: that one may quote the caller's data.
fn where_it_fails(error: &serde_json::Error) -> String {
    let problem = if error.is_data() { "has an unknown, missing or mistyped member" } else { "is no JSON" };
    format!("the body {problem} (line {}, column {})", error.line(), error.column())
}
