//! A stand-in for the CPU and for Intel's provisioning services: TDX quotes and collateral under a root of its own.
//!
//! What comes out is byte-exact: the same quote layouts (version 4, and version 5 with all three TD bodies), the same
//! certificates with Intel's SGX extension, the same signed JSON and CRLs that real platforms and Intel's service deliver.
//! Verifying code therefore runs unchanged; it only has to be told to trust [`SimulatorRoot::certificate_der`], and
//! whoever trusts Intel's root alone refuses everything made here. Every certificate says `Simulated` in its name.
//!
//! [`CollateralOptions`] and [`TdOptions`] have a knob for each state that a verifier must judge: TCB status, expiry,
//! rollback, revocation, a lower current SVN, debug attributes, foreign modules.
//!
//! This crate knows nothing of verification, policy or time: `now` is an argument. Private keys leave memory only through
//! [`SimulatorRoot::save`] and [`SimulatedTd::save`], which write files nobody else may read.
//!
//! ```
//! # fn main() -> Result<(), keyferry_td_simulator::SimulatorError> {
//! use keyferry_td_simulator::{CollateralOptions, PlatformOptions, SimulatedTd, SimulatorRoot, TdOptions};
//!
//! let now = 1_800_000_000;
//! let root = SimulatorRoot::generate("example", now)?;
//! let platform = root.platform(&PlatformOptions::default(), now)?;
//! let collateral = root.collateral(&CollateralOptions::for_platform(&platform), now)?;
//! let td = SimulatedTd::new(platform, TdOptions::default());
//! let quote = td.quote(&[7; 64])?;
//! # assert_eq!(&quote[..2], &[5, 0]);
//! # assert!(collateral.contains("tcb_info_signature"));
//! # Ok(())
//! # }
//! ```

mod authority;
mod collateral;
mod error;
mod hex_array;
mod pck_extension;
mod platform;
mod private_file;
mod root;
mod signer;
mod td;

pub use collateral::{CollateralOptions, IsvLevel, ModuleIdentity, TcbLevel, Window};
pub use error::SimulatorError;
pub use platform::{Platform, PlatformOptions};
pub use root::SimulatorRoot;
pub use td::{QuoteFormat, SimulatedTd, TdOptions};
