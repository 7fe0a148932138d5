//! What kind of stack to start.

use std::{path::PathBuf, str::FromStr};

/// Where the key lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KmsKind {
    /// One encrypted file.
    Dev,
    /// A real KMIP server.
    Pykmip,
    /// A real OpenBao, which speaks Vault's API.
    Openbao,
}

impl KmsKind {
    /// The name on the command line and in `stack.json`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Pykmip => "pykmip",
            Self::Openbao => "openbao",
        }
    }
}

impl FromStr for KmsKind {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "dev" => Ok(Self::Dev),
            "pykmip" => Ok(Self::Pykmip),
            "openbao" => Ok(Self::Openbao),
            _ => Err("choose dev, pykmip or openbao".to_owned()),
        }
    }
}

/// Which model is sealed and served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelKind {
    /// Intel's sample: nine numbers, in the sample's one-shot encryption.
    Linreg,
    /// A logistic regression made with scikit-learn, as ONNX in Keyferry's own container.
    Onnx,
}

impl ModelKind {
    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Linreg => "linreg",
            Self::Onnx => "onnx",
        }
    }
    /// What the sealed file holds, as model-runner calls it.
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Linreg => "intel-linreg",
            Self::Onnx => "onnx",
        }
    }
    /// The name it is served under.
    pub const fn served_as(self) -> &'static str {
        match self {
            Self::Linreg => "diabetes-linreg",
            Self::Onnx => "breast-cancer",
        }
    }
}

impl FromStr for ModelKind {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "linreg" => Ok(Self::Linreg),
            "onnx" => Ok(Self::Onnx),
            "minilm" => Err("this version has no text encoder yet: choose linreg or onnx".to_owned()),
            _ => Err("choose linreg or onnx".to_owned()),
        }
    }
}

/// What [`super::Stack::start`] starts.
#[derive(Clone, Debug)]
pub struct StackOptions {
    /// Everything is written below it; it is emptied first.
    pub directory: PathBuf,
    /// Where the key lives.
    pub kms: KmsKind,
    /// What is served.
    pub model: ModelKind,
    /// How many confidential VMs.
    pub tds: usize,
    /// Whether each TD loads its model at once; otherwise [`super::Stack::load_model`] does it.
    pub load_models: bool,
    /// Variables for every service.
    pub environment: Vec<(String, String)>,
    /// Where spans go.
    pub otlp_url: Option<String>,
    /// Changes the simulated TDs, e.g. to start one with debug.
    pub td: keyferry_td_simulator::TdOptions,
}

impl StackOptions {
    /// The demo's: one TD, its model loaded, the key in the development store.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            kms: KmsKind::Dev,
            model: ModelKind::Linreg,
            tds: 1,
            load_models: true,
            environment: Vec::new(),
            otlp_url: None,
            td: keyferry_td_simulator::TdOptions::default(),
        }
    }
}
