//! What turns decrypted model bytes into something that answers: one trait for the format, one for a loaded model.
//!
//! A runtime gets the plaintext as a borrowed slice and keeps no reference to it; the caller wipes it right after. What a
//! runtime copies out is wiped when the model is dropped: the linear model's nine numbers by their own type, everything
//! else by the process's wiping allocator (see `main.rs`).

mod linear;
mod onnx;
mod tensor;

use std::fmt;

pub use linear::{FEATURES, Feature, LinearRuntime, MEDIA_TYPE as LINEAR, Quirk};
pub use onnx::{MEDIA_TYPE as ONNX, OnnxRuntime};
pub use tensor::{BATCH_ROWS_MAX, DataType, InputError, Signature, Tensor, TensorSpec, Values};

/// Reads one model format.
pub trait Runtime: Send + Sync {
    /// The format it reads, as a KFM1 header and `ModelLoaded` name it.
    fn media_type(&self) -> &'static str;
    /// Builds a model from its decrypted bytes. Takes milliseconds or more of CPU: call it on a blocking thread.
    fn load(&self, plaintext: &[u8]) -> Result<Box<dyn Model>, LoadError>;
}

/// A model that answers. Dropping it wipes what it holds.
pub trait Model: Send + Sync {
    /// The format it was read from.
    fn media_type(&self) -> &'static str;
    /// What goes in and what comes out.
    fn signature(&self) -> &Signature;
    /// One prediction per row of the inputs. CPU work: call it on a blocking thread.
    fn infer(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, InferError>;
}

impl fmt::Debug for dyn Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Model({}, redacted)", self.media_type())
    }
}

/// Why decrypted bytes are no model. Never repeats what the bytes hold: they are the owner's secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// No runtime reads this format.
    #[error("no runtime reads this media type: {LINEAR} and {ONNX} are read")]
    MediaType,
    /// The runtime for the format refuses the bytes.
    #[error("the {media_type} model is malformed: {problem}")]
    Malformed {
        /// The format.
        media_type: &'static str,
        /// What is wrong, without repeating content.
        problem: &'static str,
    },
}

/// Why there is no prediction.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InferError {
    /// The inputs do not fit the model.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The runtime failed on inputs that fit.
    #[error("the runtime failed to compute a prediction")]
    Runtime,
}

/// Every runtime of this service.
pub struct Runtimes(Vec<Box<dyn Runtime>>);

impl Runtimes {
    /// All of them; `quirk` is how the linear model's text is read.
    pub fn new(quirk: Quirk) -> Self {
        Self(vec![Box::new(LinearRuntime::new(quirk)), Box::new(OnnxRuntime)])
    }

    /// Builds a model with the runtime that reads `media_type`.
    pub fn load(&self, media_type: &str, plaintext: &[u8]) -> Result<Box<dyn Model>, LoadError> {
        let runtime = self.0.iter().find(|runtime| runtime.media_type() == media_type).ok_or(LoadError::MediaType)?;
        runtime.load(plaintext)
    }
}
