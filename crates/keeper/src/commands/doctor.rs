use super::ask::{cell, result, rows, running_queen};
use crate::cli::DoctorArgs;
use crate::failure::{Exit, Failure};
use crate::print;
use operations_contract::{HiveCheckRequest, Operation, QueenCheckRequest};
use serde_json::{Value, json};

/// Both self-tests; what they found, and the next step for what is not well.
pub(super) async fn run(args: &DoctorArgs) -> Result<(), Failure> {
    let client = running_queen(&args.client).await?;
    let queen = result(&client, Operation::QueenCheck(QueenCheckRequest {}), true).await?;
    let hive = result(&client, Operation::HiveCheck(HiveCheckRequest { hive_id: args.hive_id.clone() }), true).await?;
    finish(args.json, &[("queen", queen), ("hive", hive)])
}

/// The self-test of one hive.
pub(super) async fn hive(args: &DoctorArgs) -> Result<(), Failure> {
    let client = running_queen(&args.client).await?;
    let hive = result(&client, Operation::HiveCheck(HiveCheckRequest { hive_id: args.hive_id.clone() }), true).await?;
    finish(args.json, &[("hive", hive)])
}

fn finish(as_json: bool, tests: &[(&str, Value)]) -> Result<(), Failure> {
    if as_json {
        print::json(
            &tests.iter().map(|(name, test)| ((*name).to_owned(), test.clone())).collect::<serde_json::Map<_, _>>(),
        )?;
    } else {
        for (name, test) in tests {
            for check in rows(test, "checks") {
                let mark = if check["ok"] == json!(true) { "ok  " } else { "FAIL" };
                print::line(format!("{mark}  {name}: {}: {}", cell(check, "name"), cell(check, "message")))?;
                let hint = cell(check, "hint");
                if !hint.is_empty() {
                    print::line(format!("      next: {hint}"))?;
                }
            }
        }
    }
    if tests.iter().all(|(_, test)| test["ok"] == json!(true)) {
        return Ok(());
    }
    let failure =
        Failure::new(Exit::Failed, "not all is well").hint("see above; the queen's log and rbee worker logs say more");
    Err(Failure { told: as_json, ..failure })
}
