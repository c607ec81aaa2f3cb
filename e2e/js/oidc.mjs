// An OpenID Connect provider for the tests of the gateway's login: a certified
// implementation with new keys at each start, users who need no password, and a
// login page without scripts. It says "ready" when it serves.
import { generateKeyPairSync, randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { text } from "node:stream/consumers";
import Provider from "oidc-provider";

// accounts are claims by subject. Access tokens are for whom their client asks;
// those for the client named stale have expired an hour ago. With claimsApart, ID
// tokens lack what the userinfo endpoint tells, as the standard has it.
const { issuer, clients, accounts, stale, claimsApart } = JSON.parse(process.env.OIDC);

function newKey(type, options, alg) {
  const { privateKey } = generateKeyPairSync(type, options);
  return { ...privateKey.export({ format: "jwk" }), kid: randomUUID(), alg, use: "sig" };
}

const provider = new Provider(issuer, {
  clients,
  jwks: { keys: [newKey("rsa", { modulusLength: 2048 }, "RS256"), newKey("ec", { namedCurve: "P-256" }, "ES256")] },
  cookies: { keys: [randomUUID()] },
  pkce: { required: () => true },
  claims: { openid: ["sub"], email: ["email", "email_verified"], profile: ["name"] },
  conformIdTokenClaims: claimsApart,
  findAccount: (_, sub) => accounts[sub] && { accountId: sub, claims: () => ({ sub, ...accounts[sub] }) },
  interactions: { url: (_, { uid }) => `/login/${uid}` },
  loadExistingGrant: grantEverything,
  features: {
    devInteractions: { enabled: false },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (_, audience) => ({ audience, scope: "", accessTokenFormat: "jwt" }),
      useGrantedResource: () => true,
    },
  },
  extraTokenClaims: (_, token) => accounts[token.accountId],
  formats: {
    customizers: {
      jwt(_, token, { payload }) {
        if (token.clientId === stale) {
          payload.iat -= 2 * 3600;
          payload.exp = payload.iat + 3600;
        }
      },
    },
  },
  ttl: { AccessToken: 3600, IdToken: 3600, Grant: 3600, Session: 3600, Interaction: 3600 },
});

// grantEverything spares the users the page that asks for their consent.
async function grantEverything({ oidc }) {
  const grant = new provider.Grant({ accountId: oidc.session.accountId, clientId: oidc.client.clientId });
  grant.addOIDCScope("openid email profile");
  await grant.save();
  return grant;
}

// The page asks who comes, and believes it. Who does not say so has cancelled.
async function answerLogin(request, response) {
  if (request.method === "POST") {
    const login = new URLSearchParams(await text(request)).get("login");
    const result = login ? { login: { accountId: login } } : { error: "access_denied" };
    return provider.interactionFinished(request, response, result);
  }
  response.setHeader("Content-Type", "text/html; charset=utf-8");
  response.end('<!doctype html><form method="post"><input name="login"><button>Log in</button></form>');
}

const serve = provider.callback();
createServer((request, response) => {
  if (!request.url.startsWith("/login/")) {
    return serve(request, response);
  }
  answerLogin(request, response).catch((error) => {
    response.statusCode = 400;
    response.end(String(error));
  });
}).listen(new URL(issuer).port, "127.0.0.1", () => console.log("ready"));
