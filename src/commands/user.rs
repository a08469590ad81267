//! `comity user …`.

use std::{
    io::{self, Write},
    time::{Duration, UNIX_EPOCH},
};

use clap::Subcommand;
use tokio::runtime;
use users::Role;

use super::{Failure, password::Password};
use crate::{
    config::Config,
    operator::{AccountLine, Operator},
};

const NAME_HELP: &str = "The user's name, such as alice, or whole id, such as @alice:chat.example.org";

/// How many accounts are read at once.
const PAGE: u32 = 500;

#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// Make an account
    ///
    /// The password is asked for at a terminal; elsewhere one is made up and printed, unless it is piped in.
    Create {
        #[arg(help = NAME_HELP)]
        name: String,
        /// Let this user use the admin API
        #[arg(long)]
        admin: bool,
        /// Take the first line of standard input as the password
        #[arg(long)]
        password_stdin: bool,
    },
    /// List all accounts, one a line: user id, role, state, when it was made; tabs between
    List,
    /// Close an account for good: its sessions end, and its name is never given again
    Deactivate {
        #[arg(help = NAME_HELP)]
        name: String,
        /// Forget the display name, avatar and other profile fields too
        #[arg(long)]
        erase: bool,
    },
    /// Give an account another role; counts at the user's next login, or within a minute
    SetRole {
        #[arg(help = NAME_HELP)]
        name: String,
        /// user, auditor (looks and exports), operator (looks and retries), broadcaster (reports and tells people) or admin
        role: Role,
    },
    /// Give an account a new password and end its sessions
    SetPassword {
        #[arg(help = NAME_HELP)]
        name: String,
        /// Take the first line of standard input as the password
        #[arg(long)]
        password_stdin: bool,
        /// Leave the user's sessions logged in
        #[arg(long)]
        keep_sessions: bool,
    },
}

/// Does it, and says on standard output what was done.
pub fn run(command: UserCommand, config: &Config) -> Result<(), Failure> {
    let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        // The database is opened before anybody is asked for a password.
        let operator = Operator::open(config).await?;
        let done = execute(command, &operator, &mut io::stdout()).await;
        operator.close().await;
        done
    })
}

async fn execute(command: UserCommand, operator: &Operator, out: &mut impl Write) -> Result<(), Failure> {
    match command {
        UserCommand::Create { name, admin, password_stdin } => {
            let password = Password::obtain(password_stdin)?;
            let user_id = operator.create_user(&name, password.secret(), admin).await?;
            writeln!(out, "created {user_id}{}", if admin { ", an admin" } else { "" })?;
            tell(&password, out)?;
        }
        UserCommand::List => list(operator, out).await?,
        UserCommand::Deactivate { name, erase } => {
            let user_id = operator.deactivate_user(&name, erase).await?;
            writeln!(out, "deactivated {user_id}")?;
        }
        UserCommand::SetRole { name, role } => {
            let user_id = operator.set_role(&name, role).await?;
            writeln!(out, "{user_id} is {} now", role.as_str())?;
        }
        UserCommand::SetPassword { name, password_stdin, keep_sessions } => {
            let password = Password::obtain(password_stdin)?;
            let user_id = operator.set_password(&name, password.secret(), keep_sessions).await?;
            writeln!(out, "set the password of {user_id}")?;
            tell(&password, out)?;
        }
    }
    Ok(())
}

/// Prints a password that nobody knows yet; this is the only time it is shown.
fn tell(password: &Password, out: &mut impl Write) -> io::Result<()> {
    match password {
        Password::Given(_) => Ok(()),
        Password::Generated(password) => writeln!(out, "password: {}", password.expose()),
    }
}

async fn list(operator: &Operator, out: &mut impl Write) -> Result<(), Failure> {
    let mut after = None;
    loop {
        let page = operator.list_users(after.as_deref(), PAGE).await?;
        for account in &page {
            writeln!(out, "{}", line(account))?;
        }
        match page.into_iter().next_back() {
            Some(last) => after = Some(last.user_id),
            None => return Ok(()),
        }
    }
}

fn line(account: &AccountLine) -> String {
    let role = if account.admin { "admin" } else { "user" };
    let state = if account.deactivated { "deactivated" } else { "active" };
    let created = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(account.created_at));
    format!("{}\t{role}\t{state}\t{created}", account.user_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_list_has_four_columns() {
        let account = AccountLine {
            user_id: "@alice:localhost".to_owned(),
            admin: true,
            deactivated: false,
            created_at: 1_700_000_000_000,
        };
        assert_eq!(line(&account), "@alice:localhost\tadmin\tactive\t2023-11-14T22:13:20Z");
    }
}
