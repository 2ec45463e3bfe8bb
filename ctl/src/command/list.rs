//! `ctl list`.

use std::cmp::Reverse;

use common::human;
use common::view::MigrationView;

use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::output::style::{Meaning, Text};
use crate::output::table::{Layout, Table};
use crate::summary;

/// List all migrations, the newest first
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// Leave out what has ended
    #[arg(long)]
    running: bool,
}

/// Runs `ctl list`.
pub(crate) async fn run(context: &CommandContext, args: ListArgs) -> Result<u8, CommandError> {
    let mut migrations = context.client()?.migrations().await?;
    migrations.retain(|migration| !(args.running && migration.status.is_end()));
    newest_first(&mut migrations);
    context.output.answer(&migrations, |migrations| text(migrations, context.output.width()))?;
    Ok(0)
}

/// Ids are random, so pages come in no order that says anything.
fn newest_first(migrations: &mut [MigrationView]) {
    migrations.sort_by_key(|migration| (Reverse(migration.created), migration.id.clone()));
}

fn text(migrations: &[MigrationView], width: Option<usize>) -> Text {
    if migrations.is_empty() {
        return Text::line("No migrations. `ctl migrate SOURCE DESTINATION` starts one.");
    }
    let mut table = Table::new(&[
        ("ID", Layout::Left),
        ("STATUS", Layout::Left),
        ("DONE", Layout::Right),
        ("FILES", Layout::Right),
        ("BYTES", Layout::Right),
        ("SOURCE", Layout::Flexible),
        ("DESTINATION", Layout::Flexible),
        ("CREATED", Layout::Left),
    ]);
    for migration in migrations {
        table.row([
            (Meaning::Strong, migration.id.to_string()),
            (summary::meaning(migration.status), summary::word(migration.status)),
            (Meaning::Plain, format!("{:.0} %", migration.progress)),
            (Meaning::Plain, human::count(migration.files_total)),
            (Meaning::Plain, human::bytes(migration.bytes_total)),
            (Meaning::Plain, migration.source.clone()),
            (Meaning::Plain, migration.destination.clone()),
            (Meaning::Faint, human::moment(migration.created)),
        ]);
    }
    table.render(width)
}

#[cfg(test)]
mod tests {
    use common::clock::WallMs;

    use super::*;
    use crate::output::progress::tests::view;

    #[test]
    fn the_newest_comes_first() {
        let of = |id: &str, created| MigrationView { id: id.parse().unwrap(), created, ..view() };
        let now = view().created;
        let mut migrations = [of("a2", now), of("b2", WallMs(now.0 + 1)), of("a3", now)];
        newest_first(&mut migrations);
        assert_eq!(migrations.map(|migration| migration.id.to_string()), ["b2", "a2", "a3"]);
    }

    #[test]
    fn one_line_each_or_what_to_do() {
        assert!(text(&[], None).render(false).contains("ctl migrate"));
        assert_eq!(
            text(&[view()], None).render(false),
            "ID          STATUS   DONE  FILES     BYTES  SOURCE              DESTINATION         CREATED\n\
             b7k2m9x4qz  running  47 %  4 000  2.00 MiB  web1:/var/www/shop  web2:/var/www/shop  2025-11-21 04:40:00 UTC\n"
        );
    }
}
