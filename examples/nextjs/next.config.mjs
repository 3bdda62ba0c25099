/** The hub has the page's origin, so there is no CORS, and cookies reach it. Read when the app is built, too. */
export default {
  rewrites: () => [{ source: "/hub/:path*", destination: `${process.env.EDGE_URL}/:path*` }],
};
