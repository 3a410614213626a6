// The Node SDKs at every place of a script (see ../stage.py): `node main.mjs SCRIPT [MATCH]`.
import { readFileSync } from "node:fs";
import mcp from "./mcp.mjs";
import openai from "./openai.mjs";
import { Place, Report } from "./place.mjs";

const [path, match = ""] = process.argv.slice(2);
const script = JSON.parse(readFileSync(path, "utf8"));
const report = new Report(match);
for (const spec of script.places) {
  const place = new Place(script, spec);
  for (const [sdk, checks] of Object.entries({ openai, mcp })) {
    for (const check of checks) {
      if (place.takes(check)) await report.run(place, sdk, check);
    }
  }
  await place.close();
}
console.log(`${report.passed} passed, ${report.failed} failed`);
process.exit(report.failed ? 1 : 0);
