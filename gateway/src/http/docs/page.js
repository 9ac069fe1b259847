// Renders the OpenAPI document of this gateway. Everything is put in as text, never as markup.
'use strict';

const METHODS = ['get', 'put', 'post', 'patch', 'delete'];
const el = (tag, attributes, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
  for (const child of children.flat()) if (child != null) node.append(child);
  return node;
};
// `code` within text.
const prose = (text) => (text || '').split('`').map((part, i) => (i % 2 ? el('code', {}, part) : part));

function main(spec) {
  const resolve = (schema) => {
    const name = schema?.$ref?.replace('#/components/schemas/', '');
    return name ? { name, ...spec.components.schemas[name] } : schema || {};
  };

  const type = (schema) => {
    if (schema?.$ref) return el('a', { href: `#schema-${resolve(schema).name}` }, resolve(schema).name);
    if (schema?.oneOf || schema?.anyOf) {
      return el('span', {}, (schema.oneOf || schema.anyOf).flatMap((one, i) => [i ? ' or ' : '', type(one)]));
    }
    if (schema?.enum) return schema.enum.map((value) => JSON.stringify(value)).join(' | ');
    const kinds = [schema?.type || 'any'].flat();
    const limits = [
      schema.format, schema.pattern && `matches ${schema.pattern}`,
      schema.minimum != null && `at least ${schema.minimum}`, schema.maximum != null && `at most ${schema.maximum}`,
      schema.minLength && `at least ${schema.minLength} characters`, schema.maxLength && `at most ${schema.maxLength} characters`,
      schema.default != null && `default ${JSON.stringify(schema.default)}`,
    ].filter(Boolean);
    const items = kinds.includes('array') ? [' of ', type(schema.items)] : [];
    return el('span', {}, kinds.join(' or '), items, limits.length ? ` (${limits.join(', ')})` : '');
  };

  const row = (name, schema, required, description) =>
    el('tr', {}, el('td', {}, el('code', {}, name), required ? ' *' : ''),
      el('td', {}, el('div', { class: 'type' }, type(schema)), el('div', {}, prose(description))));

  const members = (schema) => {
    const object = resolve(schema);
    const required = new Set(object.required);
    const rows = Object.entries(object.properties || {}).map(([name, member]) =>
      row(name, member, required.has(name), member.description));
    return rows.length ? el('table', {}, rows) : el('div', { class: 'type' }, type(object));
  };

  const content = (body) => Object.entries(body?.content || {}).map(([media, { schema }]) =>
    el('div', {}, el('code', {}, media), ' ', schema ? type(schema) : ''));

  const curl = (path, method, operation) => {
    const lines = [`curl ${method === 'get' ? '' : `-X ${method.toUpperCase()} `}${location.origin}${path}`];
    if (operation.security?.length) lines.push("-H 'authorization: Bearer …'");
    if (operation.requestBody) lines.push("-H 'content-type: application/json' -d '{…}'");
    return lines.join(' \\\n  ');
  };

  const section = (path, method, operation) => el('section', { id: operation.operationId },
    el('h3', {}, el('span', { class: 'method' }, method.toUpperCase()), ' ', path),
    el('p', {}, el('b', {}, prose(operation.summary)), ' ', prose(operation.description)),
    el('pre', {}, curl(path, method, operation)),
    operation.parameters?.length ? [el('h4', {}, 'Parameters'), el('table', {}, operation.parameters.map((p) =>
      row(`${p.name} (${p.in})`, p.schema, p.required, p.description)))] : null,
    operation.requestBody ? [el('h4', {}, 'Body'), content(operation.requestBody),
      ...Object.values(operation.requestBody.content).map(({ schema }) => members(schema))] : null,
    el('h4', {}, 'Answers'),
    el('table', {}, Object.entries(operation.responses).sort().map(([status, response]) =>
      el('tr', {}, el('td', {}, el('code', {}, status)), el('td', {}, prose(response.description), content(response))))));

  const byTag = new Map();
  for (const [path, item] of Object.entries(spec.paths)) {
    for (const method of METHODS.filter((method) => item[method])) {
      const tag = item[method].tags?.[0] || 'Other';
      byTag.set(tag, [...(byTag.get(tag) || []), [path, method, item[method]]]);
    }
  }
  const nav = [el('h1', {}, spec.info.title), el('a', { href: '/openapi.json' }, 'openapi.json')];
  const pages = [el('h1', {}, `${spec.info.title} ${spec.info.version}`), el('p', {}, prose(spec.info.description))];
  for (const [tag, operations] of byTag) {
    nav.push(el('h2', {}, tag));
    pages.push(el('h2', {}, tag));
    for (const [path, method, operation] of operations) {
      nav.push(el('a', { href: `#${operation.operationId}`, title: `${method} ${path}` }, operation.summary || path));
      pages.push(section(path, method, operation));
    }
  }
  pages.push(el('h2', {}, 'Types'));
  for (const [name, schema] of Object.entries(spec.components.schemas)) {
    pages.push(el('section', { id: `schema-${name}` }, el('h3', {}, name), el('p', {}, prose(schema.description)), members(schema)));
  }
  document.querySelector('nav').replaceChildren(...nav);
  document.querySelector('main').replaceChildren(...pages);
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

fetch('/openapi.json').then((response) => response.json()).then(main)
  .catch((error) => document.querySelector('main').replaceChildren(`The document cannot be shown: ${error}`));
