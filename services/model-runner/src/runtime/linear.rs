//! The sample's diabetes model: eight weights and a threshold as text, inputs divided by fixed numbers, 1 if the weighted
//! sum is over the threshold.
//!
//! Source: trustauthority-samples, `model/lin_reg.cpp`. The sample's own parser emits a number only when a blank follows
//! it; the shipped file ends without one, so the sample loses the ninth number and takes the age weight for the threshold.
//! [`Quirk::Intended`] reads nine numbers and gives the documented answers; [`Quirk::Sample`] gives the sample's, for
//! whoever has to compare.

use serde::Deserialize;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{
    InferError, LoadError, Model, Runtime,
    tensor::{DataType, Signature, Tensor, TensorSpec, Values},
};

/// The name of the format.
pub const MEDIA_TYPE: &str = "intel-linreg";
/// Nine numbers take some 90 bytes; nothing near this is a model.
const TEXT_BYTES_MAX: usize = 4096;

/// One input of the model.
#[derive(Clone, Copy, Debug)]
pub struct Feature {
    /// Its member name in `/taa/v1/execute`.
    pub name: &'static str,
    /// What it is divided by.
    divisor: f64,
}

/// The inputs in the order of the weights.
pub const FEATURES: [Feature; 8] = [
    Feature { name: "pregnancies", divisor: 28.0 },
    Feature { name: "blood-glucose", divisor: 200.0 },
    Feature { name: "blood-pressure", divisor: 125.0 },
    Feature { name: "skin-thickness", divisor: 100.0 },
    Feature { name: "insulin", divisor: 850.0 },
    Feature { name: "bmi", divisor: 68.0 },
    Feature { name: "dbf", divisor: 2.45 },
    Feature { name: "age", divisor: 100.0 },
];

/// How the model's text is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Quirk {
    /// Nine numbers: eight weights and the threshold. The documented answers.
    #[default]
    Intended,
    /// As the sample's parser does: a number without a blank behind it is lost.
    Sample,
}

/// Reads the nine-number text.
#[derive(Clone, Copy, Debug)]
pub struct LinearRuntime {
    quirk: Quirk,
}

impl LinearRuntime {
    /// A reader with the given quirk.
    pub const fn new(quirk: Quirk) -> Self {
        Self { quirk }
    }
}

impl Runtime for LinearRuntime {
    fn media_type(&self) -> &'static str {
        MEDIA_TYPE
    }

    fn load(&self, plaintext: &[u8]) -> Result<Box<dyn Model>, LoadError> {
        let parameters = match self.quirk {
            Quirk::Intended => intended(plaintext)?,
            Quirk::Sample => sample(plaintext)?,
        };
        Ok(Box::new(LinearModel { parameters, signature: signature() }))
    }
}

struct LinearModel {
    parameters: Box<Parameters>,
    signature: Signature,
}

#[derive(Zeroize, ZeroizeOnDrop)]
struct Parameters {
    weights: [f64; 8],
    threshold: f64,
}

impl Model for LinearModel {
    fn media_type(&self) -> &'static str {
        MEDIA_TYPE
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn infer(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, InferError> {
        let arranged = self.signature.arrange(inputs)?;
        let [Tensor { values: Values::Fp32(features), .. }] = arranged.as_slice() else { return Err(InferError::Runtime) };
        let answers: Vec<i64> = features.chunks_exact(FEATURES.len()).map(|row| i64::from(self.parameters.is_high_risk(row))).collect();
        Ok(vec![Tensor { name: "high-risk".to_owned(), shape: vec![answers.len()], values: Values::Int64(answers) }])
    }
}

impl Parameters {
    /// Sums in the sample's order and precision, so that the answers agree to the last bit.
    fn is_high_risk(&self, row: &[f32]) -> bool {
        let terms = row.iter().zip(&FEATURES).zip(&self.weights);
        let sum = terms.fold(0.0, |sum, ((value, feature), weight)| sum + f64::from(*value) / feature.divisor * weight);
        sum > self.threshold
    }
}

fn signature() -> Signature {
    Signature {
        inputs: vec![TensorSpec { name: "features".to_owned(), data_type: DataType::Fp32, shape: vec![None, Some(FEATURES.len())] }],
        outputs: vec![TensorSpec { name: "high-risk".to_owned(), data_type: DataType::Int64, shape: vec![None] }],
    }
}

fn intended(plaintext: &[u8]) -> Result<Box<Parameters>, LoadError> {
    parse(text(plaintext)?.split_ascii_whitespace(), false)
}

fn sample(plaintext: &[u8]) -> Result<Box<Parameters>, LoadError> {
    let text = text(plaintext)?;
    let terminated = text.rfind(' ').map_or("", |last_blank| &text[..last_blank]);
    parse(terminated.split(' '), true)
}

/// Nine numbers, or with `short` also eight: then the age weight is 0 and the eighth number is the threshold.
fn parse<'a>(mut words: impl Iterator<Item = &'a str>, short: bool) -> Result<Box<Parameters>, LoadError> {
    let mut parameters = Box::new(Parameters { weights: [0.0; 8], threshold: 0.0 });
    for weight in &mut parameters.weights {
        *weight = number(words.next().ok_or(malformed("fewer than nine numbers"))?)?;
    }
    match words.next() {
        Some(threshold) => parameters.threshold = number(threshold)?,
        None if short => parameters.threshold = std::mem::take(&mut parameters.weights[7]),
        None => return Err(malformed("fewer than nine numbers")),
    }
    match words.next() {
        Some(_) => Err(malformed("more than nine numbers")),
        None => Ok(parameters),
    }
}

fn text(plaintext: &[u8]) -> Result<&str, LoadError> {
    if plaintext.is_empty() || plaintext.len() > TEXT_BYTES_MAX {
        return Err(malformed("1 to 4096 bytes of text are read"));
    }
    std::str::from_utf8(plaintext).ok().filter(|text| text.is_ascii()).ok_or(malformed("not ASCII text"))
}

/// A 32-bit float widened to 64, as the sample reads it.
fn number(word: &str) -> Result<f64, LoadError> {
    match word.parse::<f32>() {
        Ok(number) if number.is_finite() => Ok(number.into()),
        _ => Err(malformed("something is not a finite decimal number")),
    }
}

const fn malformed(problem: &'static str) -> LoadError {
    LoadError::Malformed { media_type: MEDIA_TYPE, problem }
}
