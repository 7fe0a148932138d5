//! Why a service could not start: one sentence, and a hint where one is known.

use std::{error::Error, fmt, net::SocketAddr};

/// Ends a start; `main` prints it and exits with [`crate::EXIT_START_FAILED`].
#[derive(Debug)]
pub struct StartError {
    message: String,
    hint: Option<String>,
}

impl StartError {
    /// What was being done (`"connecting to the bus"`), and why it failed, causes included.
    pub fn new(doing: &str, error: &(dyn Error + 'static)) -> Self {
        let mut message = format!("{doing}: {error}");
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            // Many errors repeat their cause in their own text.
            if !message.contains(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            cause = error.source();
        }
        Self { message, hint: None }
    }

    /// A failure that has no error value.
    pub fn message(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn bind(name: &str, address: SocketAddr, error: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        match error.kind() {
            ErrorKind::AddrInUse => Self::message(format!("the {name} listener cannot use {address}: the port is already in use"))
                .hint("stop the process that holds it (ss -ltnp shows it), or configure another port"),
            ErrorKind::PermissionDenied => Self::message(format!("the {name} listener may not use {address}: permission denied"))
                .hint("ports below 1024 need a capability; configure a higher one"),
            ErrorKind::AddrNotAvailable => {
                Self::message(format!("the {name} listener cannot use {address}: this machine has no such address"))
                    .hint("configure an address of this machine, or 0.0.0.0")
            }
            _ => Self::message(format!("the {name} listener cannot use {address}: {error}")),
        }
    }

    /// The hint, if there is one.
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for StartError {}

/// Turns any error into a [`StartError`] by saying what was being done.
pub trait During<T> {
    /// `kms.connect().await.during("connecting to the key management system")?`
    fn during(self, doing: &str) -> Result<T, StartError>;
}

impl<T, E: Error + 'static> During<T> for Result<T, E> {
    fn during(self, doing: &str) -> Result<T, StartError> {
        self.map_err(|error| StartError::new(doing, &error))
    }
}
