//! `stillpoint schedules …`

mod text;

use clap::{Args as Group, Subcommand};
use serde_json::json;

use crate::args::SocketArgs;
use crate::domain::Fault;
use crate::proto::operator::{ListSchedulesRequest, PlanScheduleRequest, ScheduleRequest};
use crate::standalone::schedules::report::{Overview, PlanReport, ScheduleReport};
use crate::wire::status::fault_of;

use super::client::{connect, quick};
use super::output::{Format, print, print_json, read_json};
use super::snapshot;

/// `stillpoint schedules …`
#[derive(Debug, Group)]
#[command(args_conflicts_with_subcommands = true)]
pub struct SchedulesArgs {
    /// What to do; without it schedules are shown.
    #[command(subcommand)]
    pub command: Option<ScheduleCommand>,
    /// Only this one, in detail, with the last that happened.
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// Output.
    #[arg(short = 'o', long = "output", value_enum, default_value = "text")]
    pub output: Format,
    /// Where to ask.
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// What is done with one schedule.
#[derive(Debug, Subcommand)]
pub enum ScheduleCommand {
    /// Show when it is due next, and what its retention would keep and delete now; nothing is executed.
    Plan {
        /// How many due instants.
        #[arg(long, value_name = "COUNT", default_value = "5", value_parser = clap::value_parser!(u32).range(1..=100))]
        next: u32,
        /// Which one.
        #[command(flatten)]
        schedule: ScheduleArgs,
    },
    /// Start no more runs, also after a restart, until it is resumed. A run under way goes on.
    Suspend(ScheduleArgs),
    /// Go on with what is due from now on; what was due meanwhile is not made up for.
    Resume(ScheduleArgs),
    /// Start a run now, unless one is under way, and wait for it. It is the schedule's, and its retention counts it.
    Run(ScheduleArgs),
}

/// One schedule.
#[derive(Debug, Group)]
pub struct ScheduleArgs {
    /// Its name.
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Output.
    #[arg(short = 'o', long = "output", value_enum, default_value = "text")]
    pub output: Format,
    /// Where to ask.
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// Does it.
pub async fn run(args: SchedulesArgs) -> Result<(), Fault> {
    match args.command {
        None => show(args).await,
        Some(ScheduleCommand::Plan { next, schedule }) => plan(schedule, next).await,
        Some(ScheduleCommand::Suspend(args)) => suspend(args).await,
        Some(ScheduleCommand::Resume(args)) => resume(args).await,
        Some(ScheduleCommand::Run(args)) => run_now(args).await,
    }
}

/// Shows all, or one in detail. What is not protected as its schedule says makes the command fail, after it is shown.
async fn show(args: SchedulesArgs) -> Result<(), Fault> {
    let mut client = connect(&args.socket.socket).await?;
    let answer = client.list_schedules(quick(ListSchedulesRequest {})).await.map_err(fault_of)?;
    let mut overview: Overview = read_json("list of schedules", &answer.into_inner().overview_json)?;
    let Some(name) = args.name else {
        match args.output {
            Format::Json => print_json(&overview)?,
            Format::Text => print(&text::overview(&overview))?,
        }
        return protected(&overview);
    };
    let known: Vec<String> = overview.schedules.iter().map(|one| one.name.clone()).collect();
    overview.schedules.retain(|one| one.name == name);
    let Some(one) = overview.schedules.first() else {
        return Err(Fault::not_found(format!("there is no schedule {name}; there are {}", known.join(", "))));
    };
    match args.output {
        Format::Json => print_json(one)?,
        Format::Text => print(&text::detail(one, overview.now))?,
    }
    protected(&overview)
}

/// An error where something is not protected, or where that cannot be told.
fn protected(overview: &Overview) -> Result<(), Fault> {
    let overdue = overview.overdue();
    if !overdue.is_empty() {
        return Err(Fault::precondition(format!(
            "not protected as scheduled: {}; `stillpoint schedules NAME` says what happened",
            overdue.join(", ")
        )));
    }
    if let Some(why) = overview.silent.first() {
        return Err(Fault::unavailable(format!("cannot tell whether everything is protected: {why}")));
    }
    let unknown = |one: &ScheduleReport| {
        one.volumes_fault
            .as_ref()
            .map(|why| format!("cannot tell what schedule {} protects: {why}", one.name))
    };
    overview.schedules.iter().find_map(unknown).map_or(Ok(()), |why| Err(Fault::precondition(why)))
}

async fn plan(args: ScheduleArgs, count: u32) -> Result<(), Fault> {
    let mut client = connect(&args.socket.socket).await?;
    let request = PlanScheduleRequest { name: args.name, count };
    let answer = client.plan_schedule(quick(request)).await.map_err(fault_of)?;
    let plan: PlanReport = read_json("plan", &answer.into_inner().plan_json)?;
    match args.output {
        Format::Json => print_json(&plan),
        Format::Text => print(&text::plan(&plan)),
    }
}

async fn suspend(args: ScheduleArgs) -> Result<(), Fault> {
    let mut client = connect(&args.socket.socket).await?;
    client.suspend_schedule(quick(ScheduleRequest { name: args.name.clone() })).await.map_err(fault_of)?;
    match args.output {
        Format::Json => print_json(&json!({"schedule": args.name, "suspended": true})),
        Format::Text => print(&format!("{} is suspended", args.name)),
    }
}

async fn resume(args: ScheduleArgs) -> Result<(), Fault> {
    let mut client = connect(&args.socket.socket).await?;
    client.resume_schedule(quick(ScheduleRequest { name: args.name.clone() })).await.map_err(fault_of)?;
    match args.output {
        Format::Json => print_json(&json!({"schedule": args.name, "suspended": false})),
        Format::Text => print(&format!("{} goes on with what is due from now on", args.name)),
    }
}

async fn run_now(args: ScheduleArgs) -> Result<(), Fault> {
    let mut client = connect(&args.socket.socket).await?;
    let stream = client.run_schedule(ScheduleRequest { name: args.name.clone() }).await.map_err(fault_of)?;
    let done = snapshot::progressed(stream.into_inner()).await?;
    let detail = done.ok_or_else(|| {
        Fault::unavailable(format!(
            "the controller went away before the run ended; look at `stillpoint schedules {}`",
            args.name
        ))
    })?;
    snapshot::show(&detail, args.output)?;
    snapshot::aftermath(&detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Args, Command};
    use clap::Parser;

    fn parse(words: &[&str]) -> Result<SchedulesArgs, clap::Error> {
        let Command::Schedules(args) =
            Args::try_parse_from([&["stillpoint", "schedules"], words].concat())?.command
        else {
            panic!("{words:?} is about something else")
        };
        Ok(args)
    }

    #[test]
    fn a_name_shows_one_and_a_word_does_something() {
        assert_eq!(parse(&[]).unwrap().name, None);
        assert_eq!(parse(&["shop-db", "-o", "json"]).unwrap().name.as_deref(), Some("shop-db"));
        assert!(matches!(parse(&["run", "a"]).unwrap().command, Some(ScheduleCommand::Run(_))));
        let plan = parse(&["plan", "a", "--next", "7"]).unwrap().command;
        assert!(matches!(plan, Some(ScheduleCommand::Plan { next: 7, .. })));
        for wrong in
            [&["suspend"][..], &["a", "b"], &["plan", "a", "--next", "0"], &["plan", "a", "--next", "101"]]
        {
            assert_eq!(parse(wrong).unwrap_err().exit_code(), 2, "{wrong:?}");
        }
    }
}
