import { Hub } from "edge-hub/server";

/** The hub, with the backend's token: for the server only. */
export const hub = new Hub({ url: process.env.EDGE_URL, token: process.env.EDGE_TOKEN });
