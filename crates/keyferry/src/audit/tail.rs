//! `keyferry audit tail`: the last records, and those that come.

use std::{process::ExitCode, time::Duration};

use clap::Args;
use futures::{StreamExt, pin_mut};
use keyferry_bus::{AuditCopy, AuditReader, Bus, StoredRecord};
use keyferry_contract::release::v1::AuditRecord;
use prost::Message;
use serde_json::json;

use super::{Connection, unreadable, view};
use crate::output::{self, CommandResult, Failure};

/// How often --follow looks for more.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct Tail {
    #[command(flatten)]
    connection: Connection,
    /// How many of the last records.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    lines: u64,
    /// Go on with those that come, until interrupted.
    #[arg(short, long)]
    follow: bool,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

impl Tail {
    pub(super) fn run(self) -> CommandResult {
        self.connection.online(async |bus: &Bus| {
            let mut reader = AuditReader::open(bus, AuditCopy::Original).await.map_err(|error| unreadable(&error))?;
            let state = reader.state().await.map_err(|error| unreadable(&error))?;
            let mut next = state.first.max((state.last + 1).saturating_sub(self.lines));
            self.show(&reader, &mut next, state.last).await?;
            if !self.follow {
                return Ok(ExitCode::SUCCESS);
            }
            loop {
                tokio::time::sleep(LOOK).await;
                // A server that restarts is no reason to stop: nothing is missed, the sequence says where we were.
                match reader.state().await {
                    Ok(state) => self.show(&reader, &mut next, state.last).await?,
                    Err(error) => output::talk(error),
                }
            }
        })
    }

    async fn show(&self, reader: &AuditReader, next: &mut u64, last: u64) -> Result<(), Failure> {
        let records = reader.read(*next..=last);
        pin_mut!(records);
        while let Some(stored) = records.next().await {
            let stored = stored.map_err(|error| unreadable(&error))?;
            self.print(&stored)?;
            *next = stored.stream_sequence + 1;
        }
        Ok(())
    }

    fn print(&self, stored: &StoredRecord) -> Result<(), Failure> {
        let record = AuditRecord::decode(stored.body.clone());
        if self.json {
            let view = record.as_ref().map(view::object).ok();
            let stored_at = view::rfc3339(&stored.stored_at);
            return output::data(json!({ "stream_sequence": stored.stream_sequence, "stored_at": stored_at, "view": view }));
        }
        match record {
            Ok(record) => output::data(view::line(stored, &record)),
            Err(_) => output::data(format!("{:>6}  {}  no audit record", stored.stream_sequence, view::rfc3339(&stored.stored_at))),
        }
    }
}
