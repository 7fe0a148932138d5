//! Named tensors as the Open Inference Protocol knows them, and the check that inputs fit a model.

use std::fmt;

/// The most rows one request may carry: a row of a small model takes microseconds, and a bound keeps a request short.
pub const BATCH_ROWS_MAX: usize = 4096;

/// Element types that are served, with their names in the Open Inference Protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataType {
    /// 32-bit float.
    Fp32,
    /// 64-bit signed integer.
    Int64,
}

impl DataType {
    /// The protocol's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "FP32",
            Self::Int64 => "INT64",
        }
    }
    /// From the protocol's name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Fp32, Self::Int64].into_iter().find(|data_type| data_type.name() == name)
    }
}

/// The elements of a tensor, row-major.
#[derive(Clone, PartialEq)]
pub enum Values {
    /// 32-bit floats.
    Fp32(Vec<f32>),
    /// 64-bit signed integers.
    Int64(Vec<i64>),
}

impl Values {
    /// Their type.
    pub const fn data_type(&self) -> DataType {
        match self {
            Self::Fp32(_) => DataType::Fp32,
            Self::Int64(_) => DataType::Int64,
        }
    }
    /// How many.
    pub fn len(&self) -> usize {
        match self {
            Self::Fp32(values) => values.len(),
            Self::Int64(values) => values.len(),
        }
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Inputs and outputs are personal data: only counts are printed.
impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {}", self.len(), self.data_type().name())
    }
}

/// A named tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Its name in the model's signature.
    pub name: String,
    /// Its extent in each dimension.
    pub shape: Vec<usize>,
    /// Its elements.
    pub values: Values,
}

/// What a model says about one input or output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub data_type: DataType,
    /// Its extents; `None` is free (the batch).
    pub shape: Vec<Option<usize>>,
}

/// What goes into a model and what comes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Inputs, in the model's order.
    pub inputs: Vec<TensorSpec>,
    /// Outputs, in the model's order.
    pub outputs: Vec<TensorSpec>,
}

/// Which input does not fit, and why. Never repeats a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("input {input}: {problem}")]
pub struct InputError {
    /// The input's name.
    pub input: String,
    /// What is wrong with it.
    pub problem: String,
}

impl InputError {
    pub(crate) fn new(input: &str, problem: impl Into<String>) -> Self {
        Self { input: input.chars().take(64).collect(), problem: problem.into() }
    }
}

impl Signature {
    /// The inputs in the model's order, once each of them is there, once, with fitting type, shape and finite values.
    pub(crate) fn arrange<'a>(&self, inputs: &'a [Tensor]) -> Result<Vec<&'a Tensor>, InputError> {
        for (i, input) in inputs.iter().enumerate() {
            if !self.inputs.iter().any(|spec| spec.name == input.name) {
                return Err(InputError::new(&input.name, "the model has no input of this name"));
            }
            if inputs[..i].iter().any(|earlier| earlier.name == input.name) {
                return Err(InputError::new(&input.name, "given twice"));
            }
        }
        self.inputs
            .iter()
            .map(|spec| {
                let input = inputs.iter().find(|input| input.name == spec.name);
                let input = input.ok_or_else(|| InputError::new(&spec.name, "missing"))?;
                spec.check(input).map(|()| input)
            })
            .collect()
    }
}

impl TensorSpec {
    fn check(&self, input: &Tensor) -> Result<(), InputError> {
        let refuse = |problem: String| Err(InputError::new(&self.name, problem));
        if input.values.data_type() != self.data_type {
            return refuse(format!("datatype {}, wanted {}", input.values.data_type().name(), self.data_type.name()));
        }
        let fits = input.shape.len() == self.shape.len()
            && self.shape.iter().zip(&input.shape).all(|(wanted, got)| wanted.map_or((1..=BATCH_ROWS_MAX).contains(got), |w| w == *got));
        if !fits {
            return refuse(format!("shape {:?}, wanted {} (-1 is 1 to {BATCH_ROWS_MAX})", input.shape, self.shape_text()));
        }
        let elements = input.shape.iter().try_fold(1_usize, |product, extent| product.checked_mul(*extent));
        if elements != Some(input.values.len()) {
            return refuse(format!("{} values for shape {:?}", input.values.len(), input.shape));
        }
        if let Values::Fp32(values) = &input.values
            && let Some(at) = values.iter().position(|value| !value.is_finite())
        {
            return refuse(format!("value {at} is not a finite 32-bit float"));
        }
        Ok(())
    }

    fn shape_text(&self) -> String {
        let extents: Vec<String> = self.shape.iter().map(|extent| extent.map_or("-1".to_owned(), |e| e.to_string())).collect();
        format!("[{}]", extents.join(", "))
    }
}
