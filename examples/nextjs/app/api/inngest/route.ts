import { serve } from "inngest/next";

import { inngest, iterate } from "../../../src/inngest";

export const { GET, POST, PUT } = serve({ client: inngest, functions: [iterate] });
