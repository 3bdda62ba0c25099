/** As docs/behind-a-proxy.md shows it. */
export default {
  rewrites: () => [{ source: "/projects/:path*", destination: `${process.env.EDGE_URL}/projects/:path*` }],
};
