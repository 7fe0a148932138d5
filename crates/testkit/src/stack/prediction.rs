//! Asking a served model for predictions whose right answers are known.

use keyferry_tls::RootsConfig;
use serde_json::{Value, json};

use super::{ModelKind, Stack};
use crate::StartFailure;

/// Rows and answers that scikit-learn gave for the ONNX model; see `models/`.
const ANSWERS: &str = include_str!("../../../../models/breast-cancer.answers.json");
/// How far a 32-bit runtime may be from scikit-learn's 64-bit probability.
const PROBABILITY_TOLERANCE: f64 = 1e-4;

/// One prediction beside what it has to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// What the model-runner answered.
    pub got: f64,
    /// What is right.
    pub wanted: f64,
    /// What the number means.
    pub meaning: &'static str,
}

impl Prediction {
    /// Whether the answer is the right one.
    pub fn is_right(&self) -> bool {
        (self.got - self.wanted).abs() <= PROBABILITY_TOLERANCE
    }
}

impl Stack {
    /// Asks the model of TD number `td` for a prediction over HTTPS.
    pub async fn predict(&self, td: usize) -> Result<Prediction, StartFailure> {
        let url = self.workload_url(td)?;
        match self.options.model {
            ModelKind::Linreg => self.predict_risk(&url).await,
            ModelKind::Onnx => self.predict_label(&url).await,
        }
    }

    /// The row of the sample's README, whose documented answer is 0.
    async fn predict_risk(&self, url: &str) -> Result<Prediction, StartFailure> {
        let row = json!({
            "pregnancies": "3", "blood-glucose": "130", "blood-pressure": "78", "skin-thickness": "23",
            "insulin": "79", "bmi": "28.4", "dbf": "0.323", "age": "34",
        });
        let answer = self.post(&format!("{url}/taa/v1/execute"), &row).await?;
        let got = answer["high-risk"].as_f64().ok_or_else(|| unexpected(&answer))?;
        Ok(Prediction { got, wanted: 0.0, meaning: "high risk of diabetes (0 = no)" })
    }

    /// The first held-out row.
    async fn predict_label(&self, url: &str) -> Result<Prediction, StartFailure> {
        let answers: Value = serde_json::from_str(ANSWERS).unwrap_or_default();
        let row = &answers[0];
        let count = row["features"].as_array().map_or(0, Vec::len);
        let request = json!({ "inputs": [{ "name": "features", "shape": [1, count], "datatype": "FP32", "data": row["features"] }] });
        let answer = self.post(&format!("{url}/v2/models/{}/infer", ModelKind::Onnx.served_as()), &request).await?;
        let outputs = answer["outputs"].as_array().ok_or_else(|| unexpected(&answer))?;
        let probability = outputs.iter().find(|output| output["name"] == "probability").and_then(|output| output["data"][0].as_f64());
        let wanted = row["probability"].as_f64().unwrap_or(f64::NAN);
        Ok(Prediction { got: probability.ok_or_else(|| unexpected(&answer))?, wanted, meaning: "probability of a benign sample" })
    }

    async fn post(&self, url: &str, body: &Value) -> Result<Value, StartFailure> {
        let failed = |error: String| StartFailure::new(format!("{url} did not answer: {error}"), "the model-runner's log names the reason");
        let response = self.http_client()?.post(url).json(body).send().await.map_err(|error| failed(error.to_string()))?;
        let status = response.status();
        let answer: Value = response.json().await.map_err(|error| failed(format!("{status}, {error}")))?;
        if status.is_success() { Ok(answer) } else { Err(failed(format!("{status}: {answer}"))) }
    }

    /// An HTTPS client that trusts the stack's root and no other.
    pub fn http_client(&self) -> Result<reqwest::Client, StartFailure> {
        let failed = |error: String| StartFailure::new(format!("no HTTPS client: {error}"), "report this");
        let tls = keyferry_tls::http_client_config(&RootsConfig::CaFile(self.description.ca_file.clone()))
            .map_err(|error| failed(error.to_string()))?;
        reqwest::Client::builder().no_proxy().tls_backend_preconfigured(tls).build().map_err(|error| failed(error.to_string()))
    }
}

fn unexpected(answer: &Value) -> StartFailure {
    StartFailure::new(format!("the prediction has an unexpected shape: {answer}"), "report this")
}
